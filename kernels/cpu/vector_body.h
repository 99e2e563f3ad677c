// Included by level_*.cc after the level's simd header: element-wise and row-wise operations.

namespace shardline::kernels::cpu::SHARDLINE_LEVEL {

SHARDLINE_INLINE float ReduceAdd(V a) {
  float sums[4];
  Reduce4(a, Zero(), Zero(), Zero(), sums);
  return sums[0];
}

/// e^x to about 1 ulp; 0 below -104, infinity above 89. x = n ln 2 + r, |r| <= ln 2 / 2; ln 2 is
/// split so that n times its head is exact.
SHARDLINE_INLINE V Exp(V x) {
  x = Min(Max(x, Set1(-104.0f)), Set1(89.0f));
  const V n = Round(Mul(x, Set1(1.44269504f)));
  V r = Fma(n, Set1(-0.693359375f), x);
  r = Fma(n, Set1(2.12194440e-4f), r);
  // Taylor terms up to r^7: the remainder is below 2^-27 on this interval.
  V p = Set1(1.0f / 5040);
  p = Fma(p, r, Set1(1.0f / 720));
  p = Fma(p, r, Set1(1.0f / 120));
  p = Fma(p, r, Set1(1.0f / 24));
  p = Fma(p, r, Set1(1.0f / 6));
  p = Fma(p, r, Set1(0.5f));
  p = Add(Fma(Mul(r, r), p, r), Set1(1.0f));
  return Scale2(p, n);
}

SHARDLINE_INLINE V Silu(V x) { return Div(x, Add(Set1(1.0f), Exp(Sub(Zero(), x)))); }

/// x (1 + tanh(u)) / 2 = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
SHARDLINE_INLINE V GeluTanh(V x) {
  const V u = Mul(Mul(x, Set1(-2.0f * 0.797884561f)), Fma(Mul(x, x), Set1(0.044715f), Set1(1.0f)));
  return Div(x, Add(Set1(1.0f), Exp(u)));
}

/// x (1 + erf(x / sqrt 2)) / 2, through erfc(t) = v e^(P(v) - t^2), v = 1 / (1 + t/2), for t >= 0.
/// P is a least-squares fit of degree 9 over [0, 10], within 2e-7.
SHARDLINE_INLINE V GeluErf(V x) {
  const V t = Min(Mul(Abs(x), Set1(0.707106781f)), Set1(10.0f));
  const V v = Div(Set1(1.0f), Fma(t, Set1(0.5f), Set1(1.0f)));
  V p = Set1(0.144930214f);
  p = Fma(p, v, Set1(-0.6808272f));
  p = Fma(p, v, Set1(1.15673375f));
  p = Fma(p, v, Set1(-0.696251929f));
  p = Fma(p, v, Set1(-0.0802804306f));
  p = Fma(p, v, Set1(0.00126758567f));
  p = Fma(p, v, Set1(0.0346027985f));
  p = Fma(p, v, Set1(0.3866404f));
  p = Fma(p, v, Set1(0.998632789f));
  p = Fma(p, v, Set1(-1.26544797f));
  const V half_erfc = Mul(Mul(v, Set1(0.5f)), Exp(Sub(p, Mul(t, t))));
  return Mul(x, IfNegative(x, half_erfc, Sub(Set1(1.0f), half_erfc)));
}

SHARDLINE_INLINE V Relu(V x) { return IfNegative(x, Zero(), x); }

/// cap * tanh(x / cap), as cap - 2 cap / (1 + e^(2x / cap)).
SHARDLINE_INLINE V CapSoftly(V x, float cap) {
  const V power = Exp(Mul(x, Set1(2.0f / cap)));
  return Sub(Set1(cap), Div(Set1(2 * cap), Add(Set1(1.0f), power)));
}

template <V (*kActivation)(V)>
void Activate(float* x, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(x + i, kActivation(Load(x + i)));
  if (i < count) StorePartial(x + i, kActivation(LoadPartial(x + i, count - i)), count - i);
}

void SoftCapRow(float* x, int64_t count, float cap) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(x + i, CapSoftly(Load(x + i), cap));
  if (i < count) StorePartial(x + i, CapSoftly(LoadPartial(x + i, count - i), cap), count - i);
}

template <V (*kActivation)(V)>
void Gated(const float* gate, const float* up, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Store(out + i, Mul(kActivation(Load(gate + i)), Load(up + i)));
  }
  if (const int64_t left = count - i; left > 0) {
    const V g = LoadPartial(gate + i, left), u = LoadPartial(up + i, left);
    StorePartial(out + i, Mul(kActivation(g), u), left);
  }
}

void Exponential(const float* x, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(out + i, Exp(Load(x + i)));
  if (i < count) StorePartial(out + i, Exp(LoadPartial(x + i, count - i)), count - i);
}

void AddTo(float* x, const float* delta, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(x + i, Add(Load(x + i), Load(delta + i)));
  for (; i < count; ++i) x[i] += delta[i];
}

void RmsNormRow(const float* x, const float* weight, int64_t count, float epsilon, float* y) {
  V squares = Zero();
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) squares = Fma(Load(x + i), Load(x + i), squares);
  if (i < count) {
    const V last = LoadPartial(x + i, count - i);
    squares = Fma(last, last, squares);
  }
  const float mean = ReduceAdd(squares) / static_cast<float>(count);
  const float factor = 1.0f / __builtin_sqrtf(mean + epsilon);
  const V factors = Set1(factor);
  for (i = 0; i + kLanes <= count; i += kLanes) {
    Store(y + i, Mul(Mul(Load(x + i), factors), Load(weight + i)));
  }
  for (; i < count; ++i) y[i] = x[i] * factor * weight[i];
}

void LayerNormRow(const float* x, const float* weight, const float* bias, int64_t count,
                  float epsilon, float* y) {
  V sums = Zero();
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sums = Add(sums, Load(x + i));
  if (i < count) sums = Add(sums, LoadPartial(x + i, count - i));
  const float mean = ReduceAdd(sums) / static_cast<float>(count);
  const V means = Set1(mean);
  V squares = Zero();
  for (i = 0; i + kLanes <= count; i += kLanes) {
    const V centred = Sub(Load(x + i), means);
    squares = Fma(centred, centred, squares);
  }
  float variance = ReduceAdd(squares);
  for (; i < count; ++i) variance += (x[i] - mean) * (x[i] - mean);
  const float factor = 1.0f / __builtin_sqrtf(variance / static_cast<float>(count) + epsilon);
  for (i = 0; i < count; ++i) {
    y[i] = (x[i] - mean) * factor * weight[i] + (bias != nullptr ? bias[i] : 0.0f);
  }
}

float Maximum(const float* x, int64_t count) {
  // Max(a, b) yields b where a is NaN, so the running maximum is b.
  V best = Set1(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) best = Max(Load(x + i), best);
  float max = ReduceMax(best);
  for (; i < count; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

double SumExp(const float* x, int64_t count, float max, float scale) {
  const V lowest = Set1(-3.0e38f), maxima = Set1(max), scales = Set1(scale);
  double sum = 0;
  // Float lanes for short runs only: their rounding stays far below that of one exponential.
  for (int64_t run = 0; run < count; run += 32 * kLanes) {
    const int64_t end = run + 32 * kLanes < count ? run + 32 * kLanes : count;
    V acc = Zero();
    int64_t i = run;
    for (; i + kLanes <= end; i += kLanes) {
      acc = Add(acc, Exp(Mul(Sub(Max(Load(x + i), lowest), maxima), scales)));
    }
    sum += static_cast<double>(ReduceAdd(acc));
    if (i < end) {
      float terms[kLanes];
      Store(terms, Exp(Mul(Sub(Max(LoadPartial(x + i, end - i), lowest), maxima), scales)));
      for (int64_t j = 0; j < end - i; ++j) sum += static_cast<double>(terms[j]);
    }
  }
  return sum;
}

}  // namespace shardline::kernels::cpu::SHARDLINE_LEVEL
