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
static const int BAND_TOKENS = 384;

static int padded(int tokens) { return (tokens + 15) / 16 * 16; }

// Rows that are kept for the next band: two of this one and two of the one before, and one that may be left out.
static const int KEPT = 5;

// Where rows of a group of the first hidden map lie: most of them from the first that a band makes on, in memory that
// the groups share, so that it stays in the first cache; those that the next band needs apart, in the group's memory.
struct Hidden {
  float *start, *kept;
  size_t line;
  int made;                               // the row at `start`
  int rows[KEPT] = {-1, -1, -1, -1, -1};  // those that are kept

  float* row(int r) const {
    for (int i = 0; i < KEPT; i++)
      if (rows[i] == r) return kept + i * line;
    return start + (r - made) * line;
  }

  // Places for rows from `first` to `end`, two at most, one after the other; `next`: the place behind the last.
  void keep(int first, int end, int* next) {
    if (*next + end - first > KEPT) *next = 0;
    for (int r = first; r < end; r++) rows[(*next)++] = r;
  }
};

// One group of the hidden channels after the first product; tokens of it follow each other, those from `apart` on from
// `further` on.
static void expand(const FeedForward& f, int tokens, const Left& normed, int group, float* hidden, int apart,
                   float* further) {
  const int depth = grouped(f.channels), left = f.hidden - group;
  const ptrdiff_t jump = further - (hidden + (size_t)apart * GROUP);
  half_product(normed, tokens, f.fc1 + (size_t)group * depth, depth, left < GROUP ? left : GROUP, f.fc1_bias + group,
               [=](int r, int, Pair(&v)[2], int n) {
                 activate(v, 1);
                 ROWS_OF_TWO(i, n) store_floats(hidden + (size_t)(r + i) * GROUP + (r + i < apart ? 0 : jump), v[i]);
               });
}

// Rows first to last, counted through all pictures, of a group of channels after the convolution.
static void mix(const FeedForward& f, int first, int last, const Hidden& hidden, int group, half* out) {
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
  const int groups = grouped(f.hidden) / GROUP;
  const size_t line = (size_t)f.width * GROUP, apart = (size_t)padded((band + 2) * f.width) * GROUP;
  float* shared = thread_buffer((band + 2) * line + groups * (KEPT * line + apart / 2) +
                                grouped(f.channels) / GROUP * apart / 2);
  float* kept = shared + (band + 2) * line;
  half *mixed = (half*)(kept + groups * KEPT * line), *normed = mixed + groups * apart;
  Hidden hidden = {shared, kept, line, 0};
  int done = begin % f.height ? begin - 1 : begin;  // rows of the first hidden map that were made
  for (int first = begin, next = 0; first < end; first += band) {
    const int last = first + band < end ? first + band : end;
    const int needed = last % f.height ? last + 1 : last;
    int keep = needed == last ? last : last - 1;
    if (keep < done) keep = done;
    normalise_tokens(f, f.x + (size_t)done * f.width * f.channels, 0, (needed - done) * f.width, normed, apart);
    hidden.keep(keep, needed, &next);
    hidden.made = done;
    for (int group = 0; group < groups; group++) {
      hidden.kept = kept + group * KEPT * line;
      if (needed > done)
        expand(f, (needed - done) * f.width, {normed, GROUP, apart}, group * GROUP, shared, (keep - done) * f.width,
               hidden.row(keep));
      mix(f, first, last, hidden, group * GROUP, mixed + group * apart);
    }
    done = needed > done ? needed : done;
    reduce(f, first, (last - first) * f.width, {mixed, GROUP, apart}, {0, f.channels});
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
      const Hidden whole = {hidden + group * apart, nullptr, (size_t)f.width * GROUP, 0};
      expand(f, tokens, {normed, GROUP, apart}, group * GROUP, whole.start, tokens, whole.start);
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
