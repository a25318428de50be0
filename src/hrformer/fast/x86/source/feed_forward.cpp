// The convolutional feed-forward network of a block, for inference: layer norm, 1x1, GELU, depthwise 3x3, GELU, 1x1,
// GELU and residual. Neither hidden map is ever whole: a thread keeps a band of rows of each, which fit its cache.
//
// Rows are those of all pictures one after another; the convolution sees zeros beyond a picture's edges.

#include "depthwise.h"
#include "gelu.h"
#include "product.h"
#include "shares.h"

struct FeedForward {
  const float* x;          // (rows, width, channels)
  float* y;                // as x
  int rows, height, width; // of all pictures; of one
  int channels, hidden;
  float eps;
  const float* fc1;        // packed, channels deep; the norm's gain and shift folded in
  const float* fc1_bias;   // (filled hidden)
  const float* depthwise;  // (9, filled hidden)
  const float* depthwise_bias;
  const float* fc2;        // packed, hidden deep
  const float* fc2_bias;   // (filled channels)
  int threads;
};

// Tokens of a band: enough that a panel of weights is read for many rows.
static const int BAND_TOKENS = 128;

static void normalise_tokens(const FeedForward& f, const float* x, int begin, int end, float* normed) {
  for (size_t t = begin; t < (size_t)end; t++)
    normalise(x + t * f.channels, normed + t * f.channels, f.channels, f.eps);
}

// A share of the hidden channels after the first product.
static void expand(const FeedForward& f, int tokens, const float* normed, float* hidden, Vectors share) {
  const int stride = filled(f.hidden), channels = f.channels;
  const float* bias = f.fc1_bias;
  product_of_share([=](int r) { return normed + (size_t)r * channels; }, tokens, f.fc1, channels, share,
                   [=](int r, int c, vec v) { store(hidden + (size_t)r * stride + c, gelu(v + load(bias + c))); });
}

// Row r, counted through all pictures, of channels begin to end after the convolution; `row` is its place in the map
// before.
static INLINE void mix(const FeedForward& f, int r, const float* row, int begin, int end, float* out) {
  const int stride = filled(f.hidden);
  const size_t line = (size_t)f.width * stride;
  const float* lines[3] = {r % f.height ? row - line : nullptr, row, (r + 1) % f.height ? row + line : nullptr};
  depthwise_row<1>(lines, f.width, stride, begin, end, stride, f.depthwise, f.depthwise_bias, out, gelu);
}

// A share of the result's channels, from row `first` on.
static void reduce(const FeedForward& f, int first, int tokens, const float* mixed, Vectors share) {
  const int stride = filled(f.hidden), channels = f.channels;
  const float *bias = f.fc2_bias, *x = f.x + (size_t)first * f.width * channels;
  float* y = f.y + (size_t)first * f.width * channels;
  product_of_share([=](int r) { return mixed + (size_t)r * stride; }, tokens, f.fc2, f.hidden, share,
                   [=](int r, int c, vec v) {
                     const int part = channels - c;
                     const size_t at = (size_t)r * channels + c;
                     store_part(y + at, gelu(v + load(bias + c)) + load_part(x + at, part), part);
                   });
}

// Rows begin to end, band by band. Of the first hidden map a band needs a row more on either side, so the last two
// rows of a band are the first of the next.
static void work(const FeedForward& f, int begin, int end) {
  int band = (BAND_TOKENS + f.width - 1) / f.width;
  if (band > end - begin) band = end - begin;
  const int stride = filled(f.hidden), group = depthwise_group(f.width);
  const size_t line = (size_t)f.width * stride;
  float* hidden = thread_buffer((2 * band + 2) * line + (size_t)(band + 2) * f.width * f.channels);
  float *mixed = hidden + (band + 2) * line, *normed = mixed + band * line;
  int have = begin % f.height ? begin - 1 : begin;  // first hidden row that the buffer holds
  int done = have;
  for (int first = begin; first < end; first += band) {
    const int last = first + band < end ? first + band : end;
    const int needed = last % f.height ? last + 1 : last;
    const int from = first % f.height ? first - 1 : first;
    if (from > have) {
      memmove(hidden, hidden + (from - have) * line, (done - from) * line * sizeof(float));
      have = from;
    }
    if (needed > done) {
      const int tokens = (needed - done) * f.width;
      normalise_tokens(f, f.x + (size_t)done * f.width * f.channels, 0, tokens, normed);
      expand(f, tokens, normed, hidden + (done - have) * line, {0, vectors_of(f.hidden)});
      done = needed;
    }
    for (int c = 0; c < stride; c += group)
      for (int r = first; r < last; r++)
        mix(f, r, hidden + (r - have) * line, c, c + group < stride ? c + group : stride, mixed + (r - first) * line);
    reduce(f, first, (last - first) * f.width, mixed, {0, vectors_of(f.channels)});
  }
}

// All rows at once, with both hidden maps whole; threads take channels of them, and then of the result.
static void work_together(const FeedForward& f) {
  const int tokens = f.rows * f.width, stride = filled(f.hidden), channels = f.channels;
  float* normed = shared_buffer((size_t)tokens * (filled(channels) + 2 * stride));
  float *hidden = normed + (size_t)tokens * filled(channels), *mixed = hidden + (size_t)tokens * stride;
  const size_t line = (size_t)f.width * stride;
  const int parts = f.threads;
  for_parts(parts, parts, [&](int i) {
    normalise_tokens(f, f.x, tokens * i / parts, tokens * (i + 1) / parts, normed);
  });
  for_parts(parts, parts, [&](int i) {
    const Vectors share = share_of(vectors_of(f.hidden), i, parts);
    expand(f, tokens, normed, hidden, share);
    for (int r = 0; r < f.rows; r++)
      mix(f, r, hidden + r * line, share.begin * LANES, share.end * LANES, mixed + r * line);
  });
  for_parts(parts, parts, [&](int i) { reduce(f, 0, tokens, mixed, share_of(vectors_of(channels), i, parts)); });
}

extern "C" void hrformer_feed_forward(const FeedForward* settings) {
  const FeedForward f = *settings;
  for_row_shares(f, BAND_TOKENS, [&](int begin, int end) { work(f, begin, end); }, [&] { work_together(f); });
}
