// Keys and values of a head's window, packed as right operands of products. Of every token the numbers start `at` its
// start; there are tokens up to a multiple of 16, and what is not written must be zero before.

#pragma once

#include "blocks.h"

#ifndef HALF_EMULATED

static INLINE __m128i eight(const half* p) { return _mm_loadu_si128((const __m128i*)p); }

// Four pairs of numbers of 16 tokens: of each pair a row of the tokens, rows `apart`.
static INLINE void turn(half* const* tokens, int at, half* to, size_t apart) {
  __m512i v[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    v[i] = _mm512_castsi128_si512(eight(tokens[i] + at));
    v[i] = _mm512_inserti32x4(v[i], eight(tokens[4 + i] + at), 1);
    v[i] = _mm512_inserti32x4(v[i], eight(tokens[8 + i] + at), 2);
    v[i] = _mm512_inserti32x4(v[i], eight(tokens[12 + i] + at), 3);
  }
  const __m512i low = _mm512_unpacklo_epi32(v[0], v[1]), next_low = _mm512_unpacklo_epi32(v[2], v[3]);
  const __m512i high = _mm512_unpackhi_epi32(v[0], v[1]), next_high = _mm512_unpackhi_epi32(v[2], v[3]);
  _mm512_storeu_si512(to, _mm512_unpacklo_epi64(low, next_low));
  _mm512_storeu_si512(to + apart, _mm512_unpackhi_epi64(low, next_low));
  _mm512_storeu_si512(to + 2 * apart, _mm512_unpacklo_epi64(high, next_high));
  _mm512_storeu_si512(to + 3 * apart, _mm512_unpackhi_epi64(high, next_high));
}

// COUNT numbers (8, 16 or 32) of two tokens, side by side: of every eight the first four, then the others.
template <int COUNT> static INLINE void join(const half* first, const half* second, half* to) {
  if (COUNT == 32) {
    const __m512i one = _mm512_loadu_si512(first), other = _mm512_loadu_si512(second);
    _mm512_storeu_si512(to, _mm512_unpacklo_epi16(one, other));
    _mm512_storeu_si512(to + 32, _mm512_unpackhi_epi16(one, other));
  } else if (COUNT == 16) {
    const __m256i one = _mm256_loadu_si256((const __m256i*)first), other = _mm256_loadu_si256((const __m256i*)second);
    _mm256_storeu_si256((__m256i*)to, _mm256_unpacklo_epi16(one, other));
    _mm256_storeu_si256((__m256i*)(to + 16), _mm256_unpackhi_epi16(one, other));
  } else {
    _mm_storeu_si128((__m128i*)to, _mm_unpacklo_epi16(eight(first), eight(second)));
    _mm_storeu_si128((__m128i*)(to + 8), _mm_unpackhi_epi16(eight(first), eight(second)));
  }
}

#else

static INLINE void turn(half* const* tokens, int at, half* to, size_t apart) {
  for (int i = 0; i < 16; i++)
    for (int d = 0; d < 8; d++) to[d / 2 * apart + 2 * i + d % 2] = tokens[i][at + d];
}

template <int COUNT> static INLINE void join(const half* first, const half* second, half* to) {
  for (int i = 0; i < COUNT; i++) {
    const int place = i % 8 / 4 * COUNT / 2 + i / 8 * 4 + i % 4;
    to[2 * place] = first[i];
    to[2 * place + 1] = second[i];
  }
}

#endif

// For every two numbers of a key, those of all places side by side.
static INLINE void pack_keys(half* const* tokens, int at, int places, int dim, half* out) {
  for (int start = 0; start < places; start += PANEL) {
    const int width = places - start > LANES ? PANEL : LANES;
    for (int v = 0; v < width; v += LANES) {
      half* const* of = tokens + start + v;
      half* to = out + 2 * v;
      if (start + v + 1 == places)  // one is left, as in windows of odd sides
        for (int d = 0; d < dim; d += 2) memcpy(to + (size_t)d * width, of[0] + at + d, 2 * sizeof(half));
      else
        for (int d = 0; d < dim; d += 8) turn(of, at + d, to + (size_t)d * width, 2 * width);
    }
    out += (size_t)grouped(dim) * width;
  }
}

// For every two places, each number of both side by side.
static INLINE void pack_values(half* const* tokens, int at, int places, int dim, half* out) {
  const int deep = grouped(places);
  for (int start = 0; start < dim; start += PANEL) {
    const int left = dim - start, width = left > LANES ? PANEL : LANES;
    for (int place = 0; place < places; place += 2) {
      const half *first = tokens[place] + at + start, *second = tokens[place + 1] + at + start;
      half* to = out + (size_t)place * width;
      if (left >= 32) {
        join<32>(first, second, to);
      } else {
        if (left & 16) join<16>(first, second, to);
        if (left & 8) join<8>(first + (left & 16), second + (left & 16), to + 2 * (left & 16));
      }
    }
    out += (size_t)deep * width;
  }
}
