// Layer norm, window attention with relative position bias, projection and residual in bfloat16, see ../attention.cpp.
//
// Tokens of a piece lie window by window, those of the map only, so that the queries of a window are rows of a product.
// Scores are made to be exponents of two: the caller has multiplied queries and biases by log2(e).

#include "../team.h"
#include "../transpose.h"
#include "half_product.h"

struct Attention {
  const half* x;  // (batch, height, width, channels)
  half* y;        // as x
  int batch, height, width, channels;
  int window, heads, head_dim;  // head_dim: even
  float eps;
  const half* qkv;         // packed, grouped channels deep, in the order of the norm; outputs query, key, value
  const float* qkv_bias;   // (grouped 3 * heads * head_dim)
  const half* proj;        // packed, grouped heads * head_dim deep
  const float* proj_bias;  // (grouped channels)
  const float* bias;       // (heads, window^2, grouped window^2), very negative where filled
  int threads;
};

// Tokens that a thread takes at once, where there are enough for all threads: weights are read once for them.
static const int STRIP_TOKENS = 192;

static int padded(int count) { return (count + 15) / 16 * 16; }

static int packed_stride(const Attention& a) { return grouped(3 * a.heads * a.head_dim); }

// What becomes of some tokens: normalised, then queries, keys and values; a token of the padding; and where in the map
// each token's channels lie.
struct Tokens {
  half *normed, *qkv, *zeros;
  size_t* places;
};

// One head of one window.
struct Head {
  half *keys, *values, *shares;
  float* scores;
};

// Rows that a product reads beyond the tokens: of the last window, up to a multiple of 16.
static size_t token_halves(const Attention& a, int tokens) {
  const size_t rows = padded(tokens) + 16, places = tokens * sizeof(size_t) / sizeof(half);
  return rows * (grouped(a.channels) + packed_stride(a)) + packed_stride(a) + grouped(places);
}

static Tokens tokens_in(const Attention& a, int tokens, half* memory) {
  const size_t stride = packed_stride(a), rows = padded(tokens) + 16;
  half *qkv = memory + rows * grouped(a.channels), *zeros = qkv + rows * stride;
  memset(zeros, 0, stride * sizeof(half));
  return {memory, qkv, zeros, (size_t*)(zeros + stride)};
}

static size_t head_halves(const Attention& a) {
  const size_t places = a.window * a.window, deep = grouped(places), rows = padded(places) + 16;
  return padded(places) * grouped(a.head_dim) + deep * padded(a.head_dim) + rows * deep + rows * deep * 2;
}

static Head head_in(const Attention& a, half* memory) {
  const size_t places = a.window * a.window, deep = grouped(places), rows = padded(places) + 16;
  half *values = memory + padded(places) * grouped(a.head_dim), *shares = values + deep * padded(a.head_dim);
  return {memory, values, shares, (float*)(shares + rows * deep)};
}

// Keys as the right operand of a product: for every two numbers of a key, those of all places side by side.
template <class RowOf> static inline void pack_keys(RowOf row, int places, int dim, half* out) {
  const int pairs = dim / 2, deep = grouped(dim) / 2;
  for (int start = 0; start < places; start += PANEL) {
    const int width = places - start > LANES ? PANEL : LANES;
    for (int v = 0; v < width; v += LANES) {
      half* column = out + 2 * v;
      for (int d = 0; d < deep; d += LANES) {
        vec block[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
          const int place = start + v + i;
          block[i] = place < places && d < pairs ? load_part((const float*)row(place) + d, pairs - d) : (vec){};
        }
        transpose(block);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) store((float*)(column + (size_t)(d + i) * 2 * width), block[i]);
      }
    }
    out += (size_t)2 * deep * width;
  }
}

typedef uint16_t halves_vec __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

// Values as the right operand: for every two places, each number of both side by side.
template <class RowOf> static inline void pack_values(RowOf row, int places, int dim, const half* zeros, half* out) {
  const int deep = grouped(places);
  for (int start = 0; start < dim; start += PANEL) {
    const int width = dim - start > LANES ? PANEL : LANES;
    for (int place = 0; place < deep; place += 2) {
      const half* first = place < places ? row(place) + start : zeros;
      const half* second = place + 1 < places ? row(place + 1) + start : zeros;
      for (int v = 0; v < width; v += LANES, out += 2 * LANES) {
        const ivec low = __builtin_convertvector(*(const halves_vec*)(first + v), ivec);
        const ivec high = __builtin_convertvector(*(const halves_vec*)(second + v), ivec);
        store((float*)out, (vec)(low | high << 16));
      }
    }
  }
}

// Softmax of one row of scores but for the division: powers of two into `shares`; returns 1 / sum.
static INLINE float exponentials(const float* row, int length, half* shares) {
  vec most = load(row);
  for (int i = LANES; i < length; i += LANES) most = larger(most, load(row + i));
  const vec top = splat(largest_of(most));
  vec sum = {};
  for (int i = 0; i < length; i += GROUP) {
    const Pair e = {power_of_two(load(row + i) - top), power_of_two(load(row + i + LANES) - top)};
    store_halves(shares + i, e);
    sum += e.first + e.second;
  }
  return 1 / sum_of(sum);
}

// `tokens`: of every place of the window; `real`: the places inside the map; `queries`: their rows, one after another.
// The result takes the place of the queries.
static void attend(const Attention& a, const Head& h, half* const* tokens, const half* zeros, const int* real,
                   half* queries, int count, int head) {
  const int places = a.window * a.window, length = grouped(places), dim = a.head_dim, all = a.heads * dim;
  const int stride = packed_stride(a);
  float scale[count];
  pack_keys([=](int place) { return tokens[place] + all + head * dim; }, places, dim, h.keys);
  pack_values([=](int place) { return tokens[place] + 2 * all + head * dim; }, places, dim, zeros, h.values);
  float* scores = h.scores;
  const float* bias = a.bias + (size_t)head * places * length;
  half* query = queries + head * dim;
  half_product(query, stride, count, h.keys, grouped(dim), places, nullptr, [=](int r, int c, Pair(&v)[2], int n) {
    ROWS_OF_TWO(i, n) {
      const Pair sum = v[i] + load_floats(bias + (size_t)real[r + i] * length + c);
      store(scores + (size_t)(r + i) * length + c, sum.first);
      store(scores + (size_t)(r + i) * length + c + LANES, sum.second);
    }
  });
  for (int r = 0; r < count; r++) scale[r] = exponentials(scores + (size_t)r * length, length, h.shares + r * length);
  const float* factor = scale;
  half_product(h.shares, length, count, h.values, length, dim, nullptr, [=](int r, int c, Pair(&v)[2], int n) {
    ROWS_OF_TWO(i, n) store_halves(query + (size_t)(r + i) * stride + c, splat(factor[r + i]) * v[i], dim - c);
  });
}

// A piece of work: strips begin to end, counted through all pictures, and of them the windows of columns left to right.
struct Piece {
  int begin, end, left, right;
};

// One window: its places inside the map, and where they lie.
struct Window {
  int top, left, picture;  // of its first place; may be outside
};

static Window window_of(const Attention& a, int strip, int column) {
  const int k = a.window, strips = (a.height + k - 1) / k, columns = (a.width + k - 1) / k;
  return {strip % strips * k - (strips * k - a.height) / 2, column * k - (columns * k - a.width) / 2, strip / strips};
}

// Writes the places of a window inside the map and where in the map each lies; returns how many.
static int look_round(const Attention& a, const Window& w, int* real, size_t* places) {
  const int k = a.window;
  int count = 0;
  for (int i = 0; i < k * k; i++) {
    const int row = w.top + i / k, cell = w.left + i % k;
    if (row < 0 || row >= a.height || cell < 0 || cell >= a.width) continue;
    if (places) places[count] = (((size_t)w.picture * a.height + row) * a.width + cell) * a.channels;
    real[count++] = i;
  }
  return count;
}

// Heads from to until of a window whose tokens begin at `first`.
static void attend_window(const Attention& a, const Tokens& t, const Head& h, const Window& w, int first, int from,
                          int until) {
  const int places = a.window * a.window, stride = packed_stride(a);
  half* tokens[places];
  int real[places];
  const int count = look_round(a, w, real, nullptr);
  for (int i = 0; i < places; i++) tokens[i] = t.zeros;
  for (int i = 0; i < count; i++) tokens[real[i]] = t.qkv + (size_t)(first + i) * stride;
  for (int head = from; head < until && count; head++)
    attend(a, h, tokens, t.zeros, real, t.qkv + (size_t)first * stride, count, head);
}

static void normalise_tokens(const Attention& a, const Tokens& t, int begin, int end) {
  const size_t stride = grouped(a.channels);
  for (int i = begin; i < end; i++) half_normalise(a.x + t.places[i], t.normed + i * stride, a.channels, a.eps);
}

static void pack(const Attention& a, const Tokens& t, int tokens, Columns share) {
  const int stride = packed_stride(a), depth = grouped(a.channels);
  half* qkv = t.qkv;
  product_of_columns(t.normed, depth, tokens, a.qkv, depth, share, a.qkv_bias, [=](int r, int c, Pair(&v)[2], int n) {
    ROWS_OF_TWO(i, n) store_halves(qkv + (size_t)(r + i) * stride + c, v[i]);
  });
}

static void project(const Attention& a, const Tokens& t, int tokens, Columns share) {
  const int channels = a.channels;
  const half* x = a.x;
  half* y = a.y;
  const size_t* places = t.places;
  product_of_columns(t.qkv, packed_stride(a), tokens, a.proj, grouped(a.heads * a.head_dim), share, a.proj_bias,
                     [=](int r, int c, Pair(&v)[2], int n) {
                       const int part = channels - c;
                       ROWS_OF_TWO(i, n) {
                         const size_t at = places[r + i] + c;
                         store_halves(y + at, v[i] + load_halves(x + at, part), part);
                       }
                     });
}

// Tokens of the windows of a piece, with their places written.
static int place_tokens(const Attention& a, const Piece& p, size_t* places, int* firsts) {
  int real[a.window * a.window], tokens = 0;
  for (int strip = p.begin, i = 0; strip < p.end; strip++)
    for (int column = p.left; column < p.right; column++, i++) {
      firsts[i] = tokens;
      tokens += look_round(a, window_of(a, strip, column), real, places + tokens);
    }
  return tokens;
}

static void work(const Attention& a, const Piece& p) {
  const Ready ready;
  const int columns = p.right - p.left, windows = (p.end - p.begin) * columns;
  const int most = windows * a.window * a.window;
  const size_t taken = grouped(token_halves(a, most));
  half* memory = half_buffer(thread_buffer, taken + head_halves(a));
  const Tokens t = tokens_in(a, most, memory);
  const Head h = head_in(a, memory + taken);
  int firsts[windows];
  const int tokens = place_tokens(a, p, t.places, firsts);
  normalise_tokens(a, t, 0, tokens);
  pack(a, t, tokens, {0, 3 * a.heads * a.head_dim});
  for (int i = 0; i < windows; i++)
    attend_window(a, t, h, window_of(a, p.begin + i / columns, p.left + i % columns), firsts[i], 0, a.heads);
  project(a, t, tokens, {0, a.channels});
}

// All tokens at once: threads take outputs of the products, and heads of windows between them.
static void work_together(const Attention& a, int strips, int columns) {
  const int windows = strips * columns, most = windows * a.window * a.window, parts = a.threads;
  const Tokens t = tokens_in(a, most, half_buffer(shared_buffer, token_halves(a, most)));
  int firsts[windows];
  const int tokens = place_tokens(a, {0, strips, 0, columns}, t.places, firsts);
  const int *first = firsts, inner = a.heads * a.head_dim;
  for_parts(parts, parts, [&](int i) { normalise_tokens(a, t, tokens * i / parts, tokens * (i + 1) / parts); });
  for_parts(parts, parts, [&](int i) {
    const Ready ready;
    pack(a, t, tokens, columns_of(3 * inner, i, parts));
  });
  for_parts(parts, windows * a.heads, [&](int i) {
    const Ready ready;
    const Head h = head_in(a, half_buffer(thread_buffer, head_halves(a)));
    const int window = i / a.heads, head = i % a.heads;
    attend_window(a, t, h, window_of(a, window / columns, window % columns), first[window], head, head + 1);
  });
  for_parts(parts, parts, [&](int i) {
    const Ready ready;
    project(a, t, tokens, columns_of(a.channels, i, parts));
  });
}

// Into how many pieces a strip is cut so that all threads get about as many windows; 1 where strips are enough.
static int cuts_of(int strips, int columns, int threads) {
  int best = 1, least = (strips + threads - 1) / threads * columns;
  for (int cuts = 2; cuts <= columns; cuts++) {
    const int most = (strips * cuts + threads - 1) / threads * ((columns + cuts - 1) / cuts);
    if (most * 20 < least * 19) best = cuts, least = most;
  }
  return best;
}

extern "C" void hrformer_attention(const Attention* settings) {
  const Attention a = *settings;
  const int strips = a.batch * ((a.height + a.window - 1) / a.window), columns = (a.width + a.window - 1) / a.window;
  if (a.threads > 1 && a.batch * a.height * a.width <= FEW_TOKENS) return work_together(a, strips, columns);
  const int share = (strips + a.threads - 1) / a.threads;
  int group = STRIP_TOKENS / (a.window * a.width);
  if (group > share) group = share;
  if (group < 1) group = 1;
  const int groups = (strips + group - 1) / group, cuts = group == 1 ? cuts_of(strips, columns, a.threads) : 1;
  for_parts(a.threads, groups * cuts, [&](int i) {
    const int begin = i / cuts * group, end = begin + group < strips ? begin + group : strips, cut = i % cuts;
    work(a, {begin, end, columns * cut / cuts, columns * (cut + 1) / cuts});
  });
}
