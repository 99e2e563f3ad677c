#pragma once

#include "model/family.h"

namespace shardline::model {

extern const Family kGemma;
extern const Family kGpt2;
extern const Family kLlama;
extern const Family kMistral;
extern const Family kPhi;
extern const Family kQwen;
extern const Family kStableLm;
extern const Family kStarCoder2;

}  // namespace shardline::model
