// Memory and the division of work of the training kernels.
//
// Sums over tokens are taken in float32 over a band of tokens and in float64 over bands. Every part of the work has
// sums of its own, which are added in the order of the parts: the same number of threads gives the same bits.

#pragma once

#include <stdlib.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "vectors.h"

// A number of the maps that a build keeps in its own precision.
#ifdef HALF
#include "half/numbers.h"
typedef half Number;
#else
typedef float Number;
#endif

// Tokens of a band: enough that a panel of weights is read for many rows, few enough for a core's cache.
static const int BAND_TOKENS = 128;

// Floats between the tokens of a band in a thread's own memory. Not a multiple of 4 KiB: such tokens would share one
// set of the first cache.
static INLINE int band_stride(int channels) { return filled(channels) + (filled(channels) % 256 ? 0 : LANES); }

// Floats of a cache line, and how far ahead of its use memory is asked for: a page, where the processor's own guesses
// end. Nothing is wrong with an address beyond a map.
static const int LINE = 16, PAGE = 1024;
// Tokens ahead of their use, where channels are taken a few at a time.
static const int SOON = 16;
static INLINE void ask(const void* p) { __builtin_prefetch(p, 0, 2); }
static INLINE void ask_ahead(const float* p) { ask(p + PAGE); }
static INLINE void ask_ahead(const uint16_t* p) { ask(p + 2 * PAGE); }

// A function object that is part of its caller.
#define INLINED __attribute__((always_inline))

// Floats of the cache line behind each piece of memory that nobody may touch, where somebody watches.
#ifdef __SANITIZE_ADDRESS__
static const size_t FENCE = 16;
#else
static const size_t FENCE = 0;
#endif

// Rounds a share of memory up to whole cache lines.
static INLINE size_t whole_lines(size_t floats) { return (floats + 15) / 16 * 16 + FENCE; }

// Hands out pieces of one block of memory, 64 bytes aligned.
struct Pieces {
  float* at;
  float* floats(size_t count) {
    float* piece = at;
    at += whole_lines(count);
#ifdef __SANITIZE_ADDRESS__
    ASAN_POISON_MEMORY_REGION(piece + count, (at - piece - count) * sizeof(float));
#endif
    return piece;
  }
  double* doubles(size_t count) { return (double*)floats(2 * count); }
  float* zeros(size_t count) { return (float*)memset(floats(count), 0, count * sizeof(float)); }
  double* zero_doubles(size_t count) { return (double*)zeros(2 * count); }
};

// Memory of one call, shared by its threads.
struct Block {
  float* start;
  explicit Block(size_t floats) : start((float*)aligned_alloc(64, whole_lines(floats) * sizeof(float))) {
    if (!start) abort();
  }
  Block(const Block&) = delete;
  ~Block() { free(start); }
};

// Part of `count` things: those from first to last.
struct Share {
  int first, last;
};
static INLINE Share share(int count, int part, int parts) {
  return {(int)((long)count * part / parts), (int)((long)count * (part + 1) / parts)};
}

// Copies a vector and fills it with zeros.
static inline float* padded(Pieces& pieces, const float* values, int count) {
  float* out = pieces.floats(filled(count));
  for (int i = 0; i < filled(count); i++) out[i] = i < count ? values[i] : 0;
  return out;
}
