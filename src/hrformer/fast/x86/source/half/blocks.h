// Sums of a block of rows times a panel of weights, by the instructions that the build is for:
//
//   HALF_TILES: AMX, a product of 16 x 32 and 32 x 16 numbers at once. The system must allow it, see tiles.cpp.
//   else: AVX512-BF16, sixteen sums of two products at once.
//
// With HALF_EMULATED both are plain loops that round as the instructions do.
//
// A panel holds the weights of 32 outputs, or of 16 where no more are left: for every two of the depth, a row with the
// two weights of each output side by side.

#pragma once

#include "half.h"

// Outputs of a panel.
static const int PANEL = GROUP;

// Rows of numbers, the left operand: where they start, how far apart they are, and how far apart the groups of a row;
// or, of a convolution, where each group is. The rows of a map have their groups one after another; where groups lie
// apart, the rows of each are together, which is how tiles and the depthwise convolution like them.
struct Left {
  const half* start;
  size_t row, group;
  const ptrdiff_t* places = nullptr;

  INLINE Left below(int rows) const { return {start + rows * row, row, group, places}; }
  INLINE const half* of(int k) const { return start + (places ? places[k] : (ptrdiff_t)(k * group)); }
};

// Sums before and after a block: rows of floats, `row` apart.
struct Sums {
  const float* before;
  size_t before_row;
  float* after;
  size_t after_row;
};

static INLINE Left whole_rows(const half* start, size_t stride) { return {start, stride, GROUP}; }

#ifdef HALF_TILES

static const int BLOCK_ROWS = 32;

#ifdef HALF_EMULATED

struct Tiles {};

// For every sum: products of even and of odd depth apart, then both together onto it.
static INLINE void tile_product(float* sums, size_t line, const half* a, size_t stride, const half* w, size_t step) {
  for (int r = 0; r < 16; r++)
    for (int n = 0; n < 16; n++) {
      float even = 0, odd = 0;
      for (int k = 0; k < 16; k++) {
        even = normal(__builtin_fmaf(normal(wide(a[r * stride + 2 * k])), normal(wide(w[k * step + 2 * n])), even));
        const half second = a[r * stride + 2 * k + 1];
        odd = normal(__builtin_fmaf(normal(wide(second)), normal(wide(w[k * step + 2 * n + 1])), odd));
      }
      float& sum = sums[r * line + n];
      sum = normal(normal(sum) + normal(even + odd));
    }
}

template <class Meanwhile>
static INLINE void block(const Left& a, int rows, const half* w, int depth, int columns, const Sums& s, const half*,
                         int, Meanwhile) {
  const int wide_step = columns > LANES ? 2 * PANEL : PANEL;
  const int filled_rows = (rows + 15) / 16 * 16, filled_columns = columns > LANES ? PANEL : LANES;
  for (int r = 0; r < filled_rows; r++)
    for (int n = 0; n < filled_columns; n++) s.after[r * s.after_row + n] = s.before[r * s.before_row + n];
  for (int k = 0; k < depth; k += 32, w += 16 * wide_step)
    for (int r = 0; r < rows; r += 16)
      for (int n = 0; n < filled_columns; n += LANES)
        tile_product(s.after + r * s.after_row + n, s.after_row, a.of(k / GROUP) + r * a.row, a.row, w + 2 * n,
                     wide_step);
}

#else

// The tiles of the calling thread, all of 16 rows of 64 bytes, for as long as this lives.
struct Tiles {
  Tiles() {
    struct alignas(64) Shapes {
      uint8_t palette, start, reserved[14];
      uint16_t bytes[16];
      uint8_t rows[16];
    };
    static const Shapes shapes = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
  }
  ~Tiles() { __asm__ volatile("tilerelease" ::: "memory"); }
};

#define TILE_LOAD(t, p, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"((long)(stride)) : "memory")
#define TILE_STORE(t, p, stride) \
  __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((long)(stride)) : "memory")
#define TILE_PRODUCT(sums, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sums ::)

// `alone`: of the lower tiles only the first row counts, and takes the place of the others, so that less is read and
// written.
template <bool TALL, bool WIDE, class Meanwhile>
static INLINE void tiled_block(const Left& a, bool alone, const half* w, int depth, const Sums& s, const half* soon,
                               int lines, Meanwhile meanwhile) {
  constexpr int ROW_BYTES = WIDE ? 128 : 64;
  const size_t half_way = 16 * a.row, apart = a.row * sizeof(half), low_apart = alone ? 0 : apart;
  const size_t before = s.before_row * sizeof(float), after = s.after_row * sizeof(float);
  const size_t low_before = alone ? 0 : before, low_after = alone ? 0 : after;
  const float* lower = s.before + 16 * s.before_row;
  TILE_LOAD(0, s.before, before);
  if (WIDE) TILE_LOAD(1, s.before + LANES, before);
  if (TALL) TILE_LOAD(2, lower, low_before);
  if (TALL && WIDE) TILE_LOAD(3, lower + LANES, low_before);
  const int groups = depth / GROUP, parts = TALL && WIDE ? 2 * groups : groups;
  for (int k = 0; k < groups; k++, w += 8 * ROW_BYTES) {
    const half* upper = a.of(k);
    for (int i = 0; i < lines; i++, soon += 32) __builtin_prefetch(soon, 0, 2);
    TILE_LOAD(6, w, ROW_BYTES);
    TILE_LOAD(4, upper, apart);
    TILE_PRODUCT(0, 4, 6);
    if (WIDE) {
      TILE_LOAD(7, w + 32, ROW_BYTES);
      TILE_PRODUCT(1, 4, 7);
    }
    if (TALL && WIDE) meanwhile(parts);
    if (TALL) {
      TILE_LOAD(5, upper + half_way, low_apart);
      TILE_PRODUCT(2, 5, 6);
      if (WIDE) TILE_PRODUCT(3, 5, 7);
    }
    meanwhile(parts);
  }
  float* out = s.after + 16 * s.after_row;
  TILE_STORE(0, s.after, after);
  if (WIDE) TILE_STORE(1, s.after + LANES, after);
  if (TALL) TILE_STORE(2, out, low_after);
  if (TALL && WIDE) TILE_STORE(3, out + LANES, low_after);
}

// Sums of up to BLOCK_ROWS rows and up to PANEL columns. Rows and columns up to a multiple of 16 are read and written.
// `depth`: a multiple of 32. Weights that will be read soon are asked for
// ahead of time: `lines` of a cache, from `soon` on, in every step of the depth. `meanwhile(parts)`: called between
// products, `parts` times in all or, without tiles, not at all; it has vectors to work on.
template <class Meanwhile>
static INLINE void block(const Left& a, int rows, const half* w, int depth, int columns, const Sums& s,
                         const half* soon, int lines, Meanwhile meanwhile) {
  if (rows > 16 && columns > LANES)
    tiled_block<true, true>(a, rows == 17, w, depth, s, soon, lines, meanwhile);
  else if (rows > 16)
    tiled_block<true, false>(a, rows == 17, w, depth, s, soon, lines, meanwhile);
  else if (columns > LANES)
    tiled_block<false, true>(a, false, w, depth, s, soon, lines, meanwhile);
  else
    tiled_block<false, false>(a, false, w, depth, s, soon, lines, meanwhile);
}

#endif

#else

static const int BLOCK_ROWS = 12;

struct Tiles {};

#ifdef HALF_EMULATED

// The product of odd depth is added first.
static INLINE vec sum_of_products(vec sum, const half* a, const half* w) {
  const float even = normal(wide(a[0])), odd = normal(wide(a[1]));
  for (int n = 0; n < LANES; n++) {
    sum[n] = normal(__builtin_fmaf(odd, normal(wide(w[2 * n + 1])), sum[n]));
    sum[n] = normal(__builtin_fmaf(even, normal(wide(w[2 * n])), sum[n]));
  }
  return sum;
}

#else

static INLINE vec sum_of_products(vec sum, const half* a, const half* w) {
  int both;
  memcpy(&both, a, sizeof both);
  return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(both), (__m512bh)_mm512_loadu_si512(w));
}

#endif

template <int V>
static INLINE void sums_of_block(const Left& a, int rows, const half* w, int depth, const Sums& s) {
  constexpr int R = 12;
  vec sums[R][V];
  const half* row[R];
#pragma GCC unroll 12
  for (int r = 0; r < R; r++) {
    row[r] = a.start + (r < rows ? r : rows - 1) * a.row;
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) sums[r][v] = load(s.before + r * s.before_row + v * LANES);
  }
  for (int group = 0; group < depth / GROUP; group++) {
    const ptrdiff_t from = a.of(group) - a.start;
    for (int k = 0; k < GROUP; k += 2, w += 2 * V * LANES)
#pragma GCC unroll 12
      for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) sums[r][v] = sum_of_products(sums[r][v], row[r] + from + k, w + 2 * v * LANES);
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) store(s.after + r * s.after_row + v * LANES, sums[r][v]);
}

template <class Meanwhile>
static INLINE void block(const Left& a, int rows, const half* w, int depth, int columns, const Sums& s, const half*,
                         int, Meanwhile) {
  if (columns > LANES)
    sums_of_block<2>(a, rows, w, depth, s);
  else
    sums_of_block<1>(a, rows, w, depth, s);
}

#endif

// What the calling thread needs to compute, for as long as this lives.
struct Ready {
  const Flushing flushing;
  const Tiles tiles{};
};
