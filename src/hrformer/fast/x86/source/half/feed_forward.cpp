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
  const half* fc2;         // packed, grouped hidden deep
  const float* fc2_bias;   // (grouped channels)
  int threads;
};

// Tokens of a band: enough that a panel of weights is read for many rows.
static const int BAND_TOKENS = 256;

static int padded(int tokens) { return (tokens + 15) / 16 * 16; }

// One group of the hidden channels after the first product; tokens of it follow each other.
static void expand(const FeedForward& f, int tokens, const Left& normed, int group, float* hidden) {
  const int depth = grouped(f.channels), left = f.hidden - group;
  half_product(normed, tokens, f.fc1 + (size_t)group * depth, depth, left < GROUP ? left : GROUP, f.fc1_bias + group,
               [=](int r, int, Pair(&v)[2], int n) {
                 activate(v, 1);
                 ROWS_OF_TWO(i, n) store_floats(hidden + (size_t)(r + i) * GROUP, v[i]);
               });
}

// Rows of a group of the first hidden map, as many as are needed at once: the next takes the place of the oldest.
struct Ring {
  float* start;
  size_t line;
  int rows;

  float* row(int r) const { return start + r % rows * line; }
};

// Rows first to last, counted through all pictures, of a group of channels after the convolution.
static void mix(const FeedForward& f, int first, int last, const Ring& hidden, int group, half* out) {
  const Taps taps = {f.depthwise + group, f.depthwise_bias + group, grouped(f.hidden)};
  auto finish = [](Pair(&v)[2]) __attribute__((always_inline)) { activate(v, 1); };
  const int width = f.width, height = f.height;
  // Null where the row lies in another picture.
  auto beside = [&](int r, int picture) { return r >= 0 && r / height == picture ? hidden.row(r) : nullptr; };
  for (int r = first; r < last;) {
    const int picture = r / height;
    const float *above = beside(r - 1, picture), *row = hidden.row(r), *below = beside(r + 1, picture);
    if (r + 1 < last && below) {
      const Lines<4, float> lines = {{above, row, below, beside(r + 2, picture)}, width, GROUP, GROUP};
      half_depthwise_rows<2, 1>(lines, taps, out, GROUP, (size_t)width * GROUP, finish);
      r++, out += (size_t)width * GROUP;
    } else {
      const Lines<3, float> lines = {{above, row, below}, width, GROUP, GROUP};
      half_depthwise_rows<1, 1>(lines, taps, out, GROUP, 0, finish);
    }
    r++, out += (size_t)width * GROUP;
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
  const int groups = grouped(f.hidden) / GROUP, kept = band + 2;
  const size_t line = (size_t)f.width * GROUP;
  const size_t mixed_apart = (size_t)padded(band * f.width) * GROUP;
  const size_t normed_apart = (size_t)padded(kept * f.width) * GROUP;
  float* hidden = thread_buffer(groups * (kept * line + mixed_apart / 2) + grouped(f.channels) / GROUP * normed_apart / 2);
  half *mixed = (half*)(hidden + groups * kept * line), *normed = mixed + groups * mixed_apart;
  int done = begin % f.height ? begin - 1 : begin;  // rows of the first hidden map that were made
  for (int first = begin; first < end; first += band) {
    const int last = first + band < end ? first + band : end;
    const int needed = last % f.height ? last + 1 : last;
    const int tokens = (needed - done) * f.width, end_of_ring = (done / kept + 1) * kept;
    const int before = (end_of_ring < needed ? end_of_ring - done : needed - done) * f.width;
    normalise_tokens(f, f.x + (size_t)done * f.width * f.channels, 0, tokens, normed, normed_apart);
    for (int group = 0; group < groups; group++) {
      const Ring ring = {hidden + group * kept * line, line, kept};
      const Left rows = {normed, GROUP, normed_apart};
      if (before > 0) expand(f, before, rows, group * GROUP, ring.row(done));
      if (tokens > before) expand(f, tokens - before, rows.below(before), group * GROUP, ring.start);
      mix(f, first, last, ring, group * GROUP, mixed + group * mixed_apart);
    }
    done = needed > done ? needed : done;
    reduce(f, first, (last - first) * f.width, {mixed, GROUP, mixed_apart}, {0, f.channels});
  }
}

// All rows at once, with both hidden maps whole; threads take channels of them, and then of the result.
static void work_together(const FeedForward& f) {
  const int tokens = f.rows * f.width, parts = f.threads, groups = grouped(f.hidden) / GROUP;
  const size_t apart = (size_t)padded(tokens) * GROUP;
  float* hidden = shared_buffer(apart * groups + apart / 2 * (grouped(f.channels) / GROUP + groups));
  half *mixed = (half*)(hidden + apart * groups), *normed = mixed + apart * groups;
  for_parts(parts, parts, [&](int i) {
    normalise_tokens(f, f.x, tokens * i / parts, tokens * (i + 1) / parts, normed, apart);
  });
  for_parts(parts, parts, [&](int i) {
    const Ready ready;
    for (int group = groups * i / parts; group < groups * (i + 1) / parts; group++) {
      expand(f, tokens, {normed, GROUP, apart}, group * GROUP, hidden + group * apart);
      const Ring whole = {hidden + group * apart, (size_t)f.width * GROUP, f.rows};
      mix(f, 0, f.rows, whole, group * GROUP, mixed + group * apart);
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
