// Matrix products of bfloat16 rows with packed weights, summed in float32, see blocks.h.

#pragma once

#include "blocks.h"

// For each i of the two rows that `finish` gets, where it is one of `count`: written out, so that both stay in
// registers.
#define ROWS_OF_TWO(i, count)           \
  _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) \
    if (i < count)

alignas(64) static const float NOTHING[PANEL] = {};

// A block that was summed and waits to be finished, two rows at a time, as its share of the next block's sums is made.
template <class Finish> struct Waiting {
  const Finish& finish;
  const float* sums = nullptr;
  int row = 0, left = 0;  // of the product's rows: the next, and how many follow in the block
  int column = 0, pairs = 0, credit = 0;
  bool wide = false;

  INLINE void take(const float* made, int top, int rows, int first, bool both) {
    sums = made, row = top, left = rows, column = first, wide = both;
    pairs = rows / 2, credit = 0;
  }

  INLINE void next(int count) {
    Pair v[2] = {{load(sums), wide ? load(sums + LANES) : (vec){}},
                 {load(sums + PANEL), wide ? load(sums + PANEL + LANES) : (vec){}}};
    finish(row, column, v, count);
    sums += 2 * PANEL, row += 2, left -= 2;
  }

  INLINE void some(int parts) {
    for (credit += pairs; credit >= parts; credit -= parts) next(2);
  }

  INLINE void rest() {
    while (left > 1) next(2);
    if (left > 0) next(1);
    pairs = 0;
  }
};

// All rows times all panels, plus `bias`. `finish(row, column, sums, count)` gets those of one or two rows, two vectors
// each; the second is zero where fewer than 17 outputs are left. A block is finished while the next is summed: two rows
// between a few products of tiles, as the processor looks only that far ahead.
//
// a: read up to a multiple of 16 rows. depth: a multiple of 32. bias: whole groups, or null.
template <class Finish>
static INLINE void half_product(const Left& a, int rows, const half* w, int depth, int columns, const float* bias,
                                Finish finish) {
  alignas(64) float sums[2][BLOCK_ROWS * PANEL];
  Waiting<Finish> waiting = {finish};
  int which = 0;
  // The next panel, asked for while this one is used: of every line a share in every step of every block.
  const int blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS, lines = (GROUP + blocks - 1) / blocks;
  for (int column = 0; column < columns; column += PANEL) {
    const int left = columns - column, width = left > LANES ? PANEL : LANES;
    const half* soon = w + (size_t)depth * width;
    for (int top = 0; top < rows; top += BLOCK_ROWS, soon += (size_t)lines * depth, which ^= 1) {
      const int count = rows - top < BLOCK_ROWS ? rows - top : BLOCK_ROWS;
      block(a.below(top), count, w, depth, left, {bias ? bias + column : NOTHING, 0, sums[which], PANEL}, soon, lines,
            [&](int parts) __attribute__((always_inline)) { waiting.some(parts); });
      waiting.rest();
      waiting.take(sums[which], top, count, column, left > LANES);
    }
    w += (size_t)depth * width;
  }
  waiting.rest();
}

// All rows times all panels, plus `sums.before`, into `sums.after`, nothing else done with them. Rows of both up to a
// multiple of BLOCK_ROWS, and columns up to a multiple of 16, are read and written.
static INLINE void plain_product(const Left& a, int rows, const half* w, int depth, int columns, const Sums& sums) {
  for (int column = 0; column < columns; column += PANEL) {
    const int left = columns - column;
    for (int top = 0; top < rows; top += BLOCK_ROWS) {
      const int count = rows - top < BLOCK_ROWS ? rows - top : BLOCK_ROWS;
      const float* before = sums.before + top * sums.before_row + column;
      float* after = sums.after + top * sums.after_row + column;
      block(a.below(top), count, w, depth, left, {before, sums.before_row, after, sums.after_row}, w, 0, [](int) {});
    }
    w += (size_t)depth * (left > LANES ? PANEL : LANES);
  }
}

// The share of a product's outputs that thread `number` of `count` takes: whole panels.
struct Columns {
  int begin, end;
};

static INLINE Columns columns_of(int columns, int number, int count) {
  const int panels = (columns + PANEL - 1) / PANEL, end = panels * (number + 1) / count * PANEL;
  return {panels * number / count * PANEL, end < columns ? end : columns};
}

// `half_product` for some of the outputs; `finish` gets columns of all.
template <class Finish>
static INLINE void product_of_columns(const Left& a, int rows, const half* w, int depth, Columns share,
                                      const float* bias, Finish finish) {
  const int begin = share.begin;
  if (share.end > begin)
    half_product(a, rows, w + (size_t)begin * depth, depth, share.end - begin,
                 bias ? bias + begin : nullptr,
                 [=](int r, int c, Pair(&v)[2], int n) __attribute__((always_inline)) { finish(r, begin + c, v, n); });
}

