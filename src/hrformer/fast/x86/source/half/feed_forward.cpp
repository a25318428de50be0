// The convolutional feed-forward network of a block in bfloat16, see ../feed_forward.cpp.

#include "../team.h"
#include "depthwise.h"
#include "half_product.h"

struct FeedForward {
  const half* x;           // (rows, width, channels)
  half* y;                 // as x
  int rows, height, width; // of all pictures; of one
  int channels, hidden;
  float eps;
  const half* fc1;         // packed, grouped channels deep, in the order of the norm; its gain and shift folded in
  const float* fc1_bias;   // (grouped hidden)
  const float* depthwise;  // (9, grouped hidden)
  const float* depthwise_bias;
  const half* fc2;         // packed, grouped hidden deep, in the order of the convolution
  const float* fc2_bias;   // (grouped channels)
  int threads;
};

// Tokens of a band: enough that a panel of weights is read for many rows.
static const int BAND_TOKENS = 128;

static int padded(int tokens) { return (tokens + 15) / 16 * 16; }

static void normalise_tokens(const FeedForward& f, const half* x, int begin, int end, half* normed) {
  const size_t stride = grouped(f.channels);
  for (size_t t = begin; t < (size_t)end; t++)
    half_normalise(x + t * f.channels, normed + t * stride, f.channels, f.eps);
}

// A share of the hidden channels after the first product.
static void expand(const FeedForward& f, int tokens, const half* normed, half* hidden, Columns share) {
  const int stride = grouped(f.hidden), depth = grouped(f.channels);
  product_of_columns(normed, depth, tokens, f.fc1, depth, share, f.fc1_bias, [=](int r, int c, Pair(&v)[2], int n) {
    activate(v, 1);
    ROWS_OF_TWO(i, n) store_halves(hidden + (size_t)(r + i) * stride + c, v[i]);
  });
}

// Row r, counted through all pictures, of channels begin to end after the convolution; `row` is its place in the map
// before.
static INLINE void mix(const FeedForward& f, int r, const half* row, int begin, int end, half* out) {
  const int stride = grouped(f.hidden);
  const size_t line = (size_t)f.width * stride;
  const half* lines[3] = {r % f.height ? row - line : nullptr, row, (r + 1) % f.height ? row + line : nullptr};
  half_depthwise_row<1>(lines, f.width, stride, begin, end, stride, f.depthwise, f.depthwise_bias, out,
                        [](Pair(&v)[2]) __attribute__((always_inline)) { activate(v, 1); });
}

// A share of the result's channels, from row `first` on.
static void reduce(const FeedForward& f, int first, int tokens, const half* mixed, Columns share) {
  const int stride = grouped(f.hidden), channels = f.channels;
  const half* x = f.x + (size_t)first * f.width * channels;
  half* y = f.y + (size_t)first * f.width * channels;
  product_of_columns(mixed, stride, tokens, f.fc2, stride, share, f.fc2_bias, [=](int r, int c, Pair(&v)[2], int n) {
    const int part = channels - c;
    activate(v, 1);
    ROWS_OF_TWO(i, n) {
      const size_t at = (size_t)(r + i) * channels + c;
      store_halves(y + at, v[i] + load_halves(x + at, part), part);
    }
  });
}

// Rows begin to end, band by band. Of the first hidden map a band needs a row more on either side, so the last two
// rows of a band are the first of the next.
static void work(const FeedForward& f, int begin, int end) {
  const Ready ready;
  int band = (BAND_TOKENS + f.width - 1) / f.width;
  if (band > end - begin) band = end - begin;
  const int stride = grouped(f.hidden), group = half_depthwise_group(f.width), depth = grouped(f.channels);
  const size_t line = (size_t)f.width * stride, mixed_rows = padded(band * f.width);
  const size_t normed_rows = padded((band + 2) * f.width);
  half* hidden = half_buffer(thread_buffer, (band + 2) * line + mixed_rows * stride + normed_rows * depth);
  half *mixed = hidden + (band + 2) * line, *normed = mixed + mixed_rows * stride;
  int have = begin % f.height ? begin - 1 : begin;  // first hidden row that the buffer holds
  int done = have;
  for (int first = begin; first < end; first += band) {
    const int last = first + band < end ? first + band : end;
    const int needed = last % f.height ? last + 1 : last;
    const int from = first % f.height ? first - 1 : first;
    if (from > have) {
      memmove(hidden, hidden + (from - have) * line, (done - from) * line * sizeof(half));
      have = from;
    }
    if (needed > done) {
      const int tokens = (needed - done) * f.width;
      normalise_tokens(f, f.x + (size_t)done * f.width * f.channels, 0, tokens, normed);
      expand(f, tokens, normed, hidden + (done - have) * line, {0, f.hidden});
      done = needed;
    }
    for (int c = 0; c < stride; c += group)
      for (int r = first; r < last; r++)
        mix(f, r, hidden + (r - have) * line, c, c + group < stride ? c + group : stride, mixed + (r - first) * line);
    reduce(f, first, (last - first) * f.width, mixed, {0, f.channels});
  }
}

// All rows at once, with both hidden maps whole; threads take channels of them, and then of the result.
static void work_together(const FeedForward& f) {
  const int tokens = f.rows * f.width, stride = grouped(f.hidden), rows = padded(tokens);
  half* normed = half_buffer(shared_buffer, (size_t)rows * (grouped(f.channels) + 2 * stride));
  half *hidden = normed + (size_t)rows * grouped(f.channels), *mixed = hidden + (size_t)rows * stride;
  const size_t line = (size_t)f.width * stride;
  const int parts = f.threads;
  for_parts(parts, parts, [&](int i) {
    normalise_tokens(f, f.x, tokens * i / parts, tokens * (i + 1) / parts, normed);
  });
  for_parts(parts, parts, [&](int i) {
    const Ready ready;
    const Columns share = columns_of(f.hidden, i, parts);
    expand(f, tokens, normed, hidden, share);
    for (int r = 0; r < f.rows; r++)
      mix(f, r, hidden + r * line, share.begin, grouped(share.end), mixed + r * line);
  });
  for_parts(parts, parts, [&](int i) {
    const Ready ready;
    reduce(f, 0, tokens, mixed, columns_of(f.channels, i, parts));
  });
}

extern "C" void hrformer_feed_forward(const FeedForward* settings) {
  const FeedForward f = *settings;
  const int pictures = f.rows / f.height, tokens = f.height * f.width;
  if (f.threads > 1 && f.rows * f.width <= FEW_TOKENS) return work_together(f);
  int parts = f.threads;
  // Many pictures: whole ones, enough at once that weights are read for many tokens, to whichever thread is free.
  if (pictures >= 4 * f.threads) {
    int together = (2 * BAND_TOKENS + tokens - 1) / tokens;
    if (together > pictures / f.threads) together = pictures / f.threads;
    parts = (pictures + together - 1) / together;
  }
  for_parts(f.threads, parts, [&](int part) {
    const int unit = parts > f.threads ? f.height : 1, all = f.rows / unit;
    const int begin = (int)((long)all * part / parts) * unit, end = (int)((long)all * (part + 1) / parts) * unit;
    if (end > begin) work(f, begin, end);
  });
}
