// The convolutional feed-forward network in training: what its forward and its backward pass share.
//
// Hidden maps are (rows, width, filled hidden), rows those of all pictures one after another; the convolution sees
// zeros beyond a picture's edges.

#pragma once

#include "training_norms.h"
#include "training_products.h"

struct Size {
  int rows, height, width;  // rows of all pictures, height of one
  int channels, hidden;
  float layer_eps;
  int tokens() const { return rows * width; }
  int parts(int threads) const { return threads < rows ? threads : rows; }
  // Rows of a band.
  int band() const { return (BAND_TOKENS + width - 1) / width; }
  size_t line() const { return (size_t)width * filled(hidden); }
};

struct Weights {
  const float *layer_weight, *layer_bias;  // (channels), or null
  const float *fc1, *fc1_bias;             // (hidden, channels)
  const float *norm1, *norm1_bias;
  const float *depthwise, *depthwise_bias;  // (hidden, 9)
  const float *norm2, *norm2_bias;
  const float *fc2, *fc2_bias;  // (channels, hidden)
  const float *norm3, *norm3_bias;
};

// Mean and 1 / standard deviation of the three batch norms.
struct Statistics {
  float *mean1, *rstd1, *mean2, *rstd2;  // (filled hidden)
  float *mean3, *rstd3;                  // (filled channels)
};

static INLINE Statistics statistics_in(float* memory, const Size& s) {
  const int e = filled(s.hidden), c = filled(s.channels);
  return {memory, memory + e, memory + 2 * e, memory + 3 * e, memory + 4 * e, memory + 4 * e + c};
}

static INLINE Layer layer_of(const Size& s, const Weights& w) { return {w.layer_weight, w.layer_bias, s.layer_eps}; }

// Calls `work(first, last)` for the bands of a part's rows.
template <class Work> static INLINE void for_bands(const Size& s, int part, int parts, Work work) {
  const Share rows = share(s.rows, part, parts);
  for (int first = rows.first; first < rows.last; first += s.band())
    work(first, first + s.band() < rows.last ? first + s.band() : rows.last);
}


// Depthwise weights by tap: (9, filled hidden).
static inline float* taps_of(Pieces& pieces, const float* depthwise, int hidden) {
  float* out = pieces.floats((size_t)9 * filled(hidden));
  memset(out, 0, (size_t)9 * filled(hidden) * sizeof(float));
  for (int c = 0; c < hidden; c++)
    for (int i = 0; i < 9; i++) out[(size_t)i * filled(hidden) + c] = depthwise[(size_t)c * 9 + i];
  return out;
}

static INLINE size_t taps_floats(int hidden) { return whole_lines((size_t)9 * filled(hidden)); }

// First product of rows first to last, with its bias, into the hidden map.
static inline void expand_rows(const Size& s, const Weights& w, const float* x, const Packed* fc1, const float* bias,
                               int first, int last, float* normed, Number* expanded) {
  const int tokens = (last - first) * s.width, stride = filled(s.channels), hidden = filled(s.hidden);
  const size_t start = (size_t)first * s.width;
  Number* out = expanded + start * hidden;
  auto row = [=](int t) { return x + (start + t) * s.channels; };
  layer_norm(layer_of(s, w), row, tokens, s.channels, stride, normed, nullptr, nullptr);
  for (int c = 0; c < tokens * hidden; c += LINE) ask(out + c);
  product([=](int r) { return normed + (size_t)r * stride; }, tokens, fc1, s.channels, vectors_of(s.hidden),
          [=](int r, int c, vec v) { store(out + (size_t)r * hidden + c, v + load(bias + c)); });
}

// Columns of a map that are convolved together, so that their inputs and the taps are loaded once for all.
static const int CELLS = 4;

// Calls `each(column, count, c, inputs)` for the columns of three rows, CELLS or `count` at a time, and every vector of
// channels: inputs[3][CELLS + 2] are those from the column before to the one behind, zeros beyond the edges.
template <bool EDGE, class Each>
static INLINE void visit_cells(const float* const* rows, int width, int stride, int column, Each each) {
  const int count = width - column < CELLS ? width - column : CELLS;
  for (int c = 0; c < stride; c += LANES) {
    vec inputs[3][CELLS + 2];
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++)
#pragma GCC unroll 6
      for (int j = 0; j < CELLS + 2; j++) {
        const int at = column - 1 + j;
        inputs[i][j] = EDGE && (at < 0 || at >= width) ? (vec){} : load(rows[i] + (ptrdiff_t)at * stride + c);
      }
    each(column, EDGE ? count : CELLS, c, inputs);
  }
}

template <class Each> static INLINE void for_cells(const float* const* rows, int width, int stride, Each each) {
  for (int column = 0; column < width; column += CELLS) {
    if (column == 0 || column + CELLS >= width)
      visit_cells<true>(rows, width, stride, column, each);
    else
      visit_cells<false>(rows, width, stride, column, each);
  }
}

// Three rows that follow each other, in a thread's memory: row r lies at r % 3. `fill(row, to)` makes one.
class RowRing {
 public:
  RowRing(const Size& size, float* memory, int first)
      : s(size), rows(memory), zeros(memory + 3 * size.line()), ready(first % size.height ? first - 1 : first) {
    memset(zeros, 0, s.line() * sizeof(float));
  }
  static size_t floats(const Size& size) { return 4 * size.line(); }

  // The rows above, at and below row r; zeros beyond its picture. Rows are asked for one after another.
  template <class Fill> INLINE void around(int r, Fill fill, const float** lines) {
    const bool above = r % s.height, below = (r + 1) % s.height;
    for (; ready <= r + (below ? 1 : 0); ready++) fill(ready, slot(ready));
    lines[0] = above ? slot(r - 1) : zeros;
    lines[1] = slot(r);
    lines[2] = below ? slot(r + 1) : zeros;
  }

 private:
  float* slot(int r) const { return rows + r % 3 * s.line(); }
  const Size s;
  float* const rows;
  float* const zeros;
  int ready;  // rows before this one are made
};

// Tokens of the hidden map after batch norm and GELU, in the order of memory. Asks for what is written soon.
template <class Soon>
static inline void activate(const Norm& norm, const Number* x, int tokens, int channels, float* out, const Soon* soon) {
  for (int t = 0; t < tokens; t++, x += channels, out += channels, soon += channels)
    for (int c = 0; c < channels; c += LANES) {
      ask_ahead(x + c);
      ask(soon + c);
      store(out + c, gelu(load(x + c) * load(norm.scale + c) + load(norm.shift + c)));
    }
}

// A row of the depthwise convolution of rows in memory.
static inline void convolve_row(const float* const* rows, const float* taps, const float* bias, int width, int stride,
                                Number* out) {
  for_cells(rows, width, stride, [=](int column, int count, int c, const vec (*inputs)[CELLS + 2]) INLINED {
    vec sums[CELLS], tap[9];
#pragma GCC unroll 9
    for (int i = 0; i < 9; i++) tap[i] = load(taps + (size_t)i * stride + c);
#pragma GCC unroll 4
    for (int j = 0; j < CELLS; j++) {
      sums[j] = load(bias + c);
#pragma GCC unroll 9
      for (int i = 0; i < 9; i++) sums[j] += inputs[i / 3][j + i % 3] * tap[i];
      if (j < count) store(out + (size_t)(column + j) * stride + c, sums[j]);
    }
  });
}
