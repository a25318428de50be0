// A vector of bfloat16 numbers in memory, as float32 in a register: for code that is written for both.

#pragma once

#include "half.h"

#ifndef HALF_EMULATED

static INLINE vec load(const half* p) {
  return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
}

// The first n lanes, 0 < n <= LANES; memory behind them is neither read nor written.
static INLINE vec load_part(const half* p, int n) {
  if (n >= LANES) return load(p);
  return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16((__mmask16)mask_of(n), p)), 16);
}

static INLINE void store_part(half* p, vec v, int n) {
  const __m256i made = (__m256i)_mm512_cvtneps_pbh((__m512)v);
  if (n >= LANES)
    _mm256_storeu_si256((__m256i*)p, made);
  else
    _mm256_mask_storeu_epi16(p, (__mmask16)mask_of(n), made);
}

#else

static INLINE vec load_part(const half* p, int n) {
  vec v = {};
  for (int i = 0; i < LANES && i < n; i++) v[i] = wide(p[i]);
  return v;
}

static INLINE vec load(const half* p) { return load_part(p, LANES); }

static INLINE void store_part(half* p, vec v, int n) {
  for (int i = 0; i < LANES && i < n; i++) p[i] = narrow(v[i]);
}

#endif

static INLINE void store(half* p, vec v) { store_part(p, v, LANES); }
