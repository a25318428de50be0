// Activations chosen by number, as ../../ops/native.py numbers them.

#pragma once

#include "gelu.h"
#include "vectors.h"

enum Activation { NONE, GELU, RELU };

static INLINE vec activated(vec v, int activation) {
  return activation == GELU ? gelu(v) : activation == RELU ? relu(v) : v;
}
