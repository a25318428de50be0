// The convolutional feed-forward network of a block in bfloat16, see ../feed_forward.cpp.

#include "../shares.h"
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
static const int BAND_TOKENS = 256;

static int padded(int tokens) { return (tokens + 15) / 16 * 16; }

// One group of the hidden channels after the first product; tokens of it follow each other.
static void expand(const FeedForward& f, int tokens, const Left& normed, int group, half* hidden) {
  const int depth = grouped(f.channels), left = f.hidden - group;
  half_product(normed, tokens, f.fc1 + (size_t)group * depth, depth, left < GROUP ? left : GROUP, f.fc1_bias + group,
               [=](int r, int, Pair(&v)[2], int n) {
                 activate(v, 1);
                 ROWS_OF_TWO(i, n) store_halves(hidden + (size_t)(r + i) * GROUP, v[i]);
               });
}

// Rows first to last, counted through all pictures, of a group of channels after the convolution; `row` is the place of
// the first in the map before.
static void mix(const FeedForward& f, int first, int last, const half* row, int group, half* out) {
  const size_t line = (size_t)f.width * GROUP;
  const Taps taps = {f.depthwise + group, f.depthwise_bias + group, grouped(f.hidden)};
  auto finish = [](Pair(&v)[2]) __attribute__((always_inline)) { activate(v, 1); };
  for (int r = first; r < last;) {
    const half* above = r % f.height ? row - line : nullptr;
    const bool two = r + 1 < last && (r + 1) % f.height;
    if (two) {
      const half* below = (r + 2) % f.height ? row + 2 * line : nullptr;
      const Lines<4> lines = {{above, row, row + line, below}, f.width, GROUP, GROUP};
      half_depthwise_rows<2, 1>(lines, taps, out, GROUP, line, finish);
    } else {
      const half* below = (r + 1) % f.height ? row + line : nullptr;
      half_depthwise_rows<1, 1>({{above, row, below}, f.width, GROUP, GROUP}, taps, out, GROUP, line, finish);
    }
    const int rows = two ? 2 : 1;
    r += rows;
    row += rows * line;
    out += rows * line;
  }
}

// A share of the result's channels, from row `first` on.
static void reduce(const FeedForward& f, int first, int tokens, const Left& mixed, Columns share) {
  const int depth = grouped(f.hidden), channels = f.channels;
  const half* x = f.x + (size_t)first * f.width * channels;
  half* y = f.y + (size_t)first * f.width * channels;
  product_of_columns(mixed, tokens, f.fc2, depth, share, f.fc2_bias, [=](int r, int c, Pair(&v)[2], int n) {
    const int part = channels - c;
    activate(v, 1);
    ROWS_OF_TWO(i, n) {
      const size_t at = (size_t)(r + i) * channels + c;
      store_halves(y + at, v[i] + load_halves(x + at, part), part);
    }
  });
}

static void normalise_tokens(const FeedForward& f, const half* x, int begin, int end, half* normed, size_t apart) {
  const int channels = f.channels;
  half_normalise_all([=](int t) { return x + (size_t)t * channels; }, begin, end, normed, apart, channels, f.eps);
}

// Rows begin to end, band by band, and of a band group by group of the hidden channels: a group stays in the first
// cache from the first product through the convolution. Of the first hidden map a band needs a row more on either
// side, so the last two rows of a band are the first of the next.
static void work(const FeedForward& f, int begin, int end) {
  const Ready ready;
  int band = (BAND_TOKENS + f.width - 1) / f.width;
  if (band > end - begin) band = end - begin;
  const int groups = grouped(f.hidden) / GROUP;
  const size_t line = (size_t)f.width * GROUP, rows = (band + 2) * line;
  const size_t mixed_apart = (size_t)padded(band * f.width) * GROUP;
  const size_t normed_apart = (size_t)padded((band + 2) * f.width) * GROUP;
  half* hidden = half_buffer(thread_buffer, groups * (rows + mixed_apart) + grouped(f.channels) / GROUP * normed_apart);
  half *mixed = hidden + groups * rows, *normed = mixed + groups * mixed_apart;
  int have = begin % f.height ? begin - 1 : begin;  // first hidden row that the buffer holds
  int done = have;
  for (int first = begin; first < end; first += band) {
    const int last = first + band < end ? first + band : end;
    const int needed = last % f.height ? last + 1 : last;
    const int from = first % f.height ? first - 1 : first;
    const int tokens = (needed - done) * f.width;
    normalise_tokens(f, f.x + (size_t)done * f.width * f.channels, 0, tokens, normed, normed_apart);
    for (int group = 0; group < groups; group++) {
      half* part = hidden + group * rows;
      if (from > have) memmove(part, part + (from - have) * line, (done - from) * line * sizeof(half));
      if (tokens > 0) expand(f, tokens, {normed, GROUP, normed_apart}, group * GROUP, part + (done - from) * line);
      mix(f, first, last, part + (first - from) * line, group * GROUP, mixed + group * mixed_apart);
    }
    have = from;
    done = needed > done ? needed : done;
    reduce(f, first, (last - first) * f.width, {mixed, GROUP, mixed_apart}, {0, f.channels});
  }
}

// All rows at once, with both hidden maps whole; threads take channels of them, and then of the result.
static void work_together(const FeedForward& f) {
  const int tokens = f.rows * f.width, parts = f.threads, groups = grouped(f.hidden) / GROUP;
  const size_t apart = (size_t)padded(tokens) * GROUP;
  half* normed = half_buffer(shared_buffer, apart * (grouped(f.channels) / GROUP + 2 * groups));
  half *hidden = normed + apart * grouped(f.channels) / GROUP, *mixed = hidden + apart * groups;
  for_parts(parts, parts, [&](int i) {
    normalise_tokens(f, f.x, tokens * i / parts, tokens * (i + 1) / parts, normed, apart);
  });
  for_parts(parts, parts, [&](int i) {
    const Ready ready;
    for (int group = groups * i / parts; group < groups * (i + 1) / parts; group++) {
      expand(f, tokens, {normed, GROUP, apart}, group * GROUP, hidden + group * apart);
      mix(f, 0, f.rows, hidden + group * apart, group * GROUP, mixed + group * apart);
    }
  });
  for_parts(parts, parts, [&](int i) {
    const Ready ready;
    reduce(f, 0, tokens, {mixed, GROUP, apart}, columns_of(f.channels, i, parts));
  });
}

extern "C" void hrformer_feed_forward(const FeedForward* settings) {
  const FeedForward f = *settings;
  for_row_shares(f, BAND_TOKENS, [&](int begin, int end) { work(f, begin, end); }, [&] { work_together(f); });
}
