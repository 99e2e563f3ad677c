#pragma once

#include <chrono>
#include <cstdint>

namespace shardline::coordinator {

enum class RequestEnd : uint8_t {
  kStop,    // end-of-sequence, a stop token or a stop text
  kLength,  // max_tokens, or the model's context
  kAbort,   // cancelled, past its deadline, or cut off
};

/// Hears how accepted requests fare, in a turn of the engine, which must not be held up.
class RequestObserver {
 public:
  using Seconds = std::chrono::duration<double>;

  virtual ~RequestObserver() = default;
  virtual void OnAccepted(int prompt_tokens) = 0;
  /// A replica takes the request up for the first time, so long after it was submitted.
  virtual void OnAdmitted(Seconds queued) = 0;
  virtual void OnFirstToken(Seconds since_submitted) = 0;
  virtual void OnNextToken(Seconds since_token_before) = 0;
  virtual void OnEnd(RequestEnd end, Seconds since_submitted) = 0;
};

}  // namespace shardline::coordinator
