// Layer norm, window attention with relative position bias, projection and residual, for inference.
//
// A strip of windows, K rows of the map, passes through all of it before the next: its queries, keys and values stay
// in a core's cache. Tokens of the padding hold zeros: the biases of keys change no softmax, and those of values pass
// it unchanged, so that the caller has added them to the bias of the projection.

#include "product.h"
#include "shares.h"
#include "window_packing.h"

struct Attention {
  const float* x;  // (batch, height, width, channels)
  float* y;        // as x
  int batch, height, width, channels;
  int window, heads, head_dim;
  float eps;
  const float* qkv;        // packed, channels deep; outputs query, key, value, each heads * head_dim
  const float* qkv_bias;   // (filled 3 * heads * head_dim)
  const float* proj;       // packed, heads * head_dim deep
  const float* proj_bias;  // (filled channels)
  const float* bias;       // (heads, window^2, filled window^2), very negative where filled
  int threads;
};

// Tokens that a thread takes at once, where there are enough for all threads: weights are read once for them.
static const int STRIP_TOKENS = 192;

static int packed_stride(const Attention& a) { return filled(3 * a.heads * a.head_dim); }

// What becomes of some tokens: normalised, then queries, keys and values; a token of the padding; and where in the map
// each token's channels lie.
struct Tokens {
  float *normed, *qkv, *zeros;
  size_t* places;
};

// One head of one window.
struct Head {
  float *keys, *values, *scores;
};

static size_t token_floats(const Attention& a, int tokens) {
  return (size_t)tokens * (filled(a.channels) + packed_stride(a) + sizeof(size_t) / sizeof(float)) + packed_stride(a);
}

static Tokens tokens_in(const Attention& a, int tokens, float* memory) {
  const size_t stride = packed_stride(a);
  float *qkv = memory + (size_t)tokens * filled(a.channels), *zeros = qkv + tokens * stride;
  memset(zeros, 0, stride * sizeof(float));
  return {memory, qkv, zeros, (size_t*)(zeros + stride)};
}

static size_t head_floats(const Attention& a) {
  const size_t places = a.window * a.window, wide = filled(a.head_dim), length = filled(places);
  return wide * length + length * wide + places * length;
}

static Head head_in(const Attention& a, float* memory) {
  const size_t places = a.window * a.window, wide = filled(a.head_dim), length = filled(places);
  return {memory, memory + wide * length, memory + 2 * wide * length};
}

// Softmax of one row of scores but for the division: returns 1 / sum.
static INLINE float exponentials(float* row, int length) {
  vec most = load(row);
  for (int i = LANES; i < length; i += LANES) most = larger(most, load(row + i));
  const vec top = splat(largest_of(most));
  vec sum = {};
  for (int i = 0; i < length; i += LANES) {
    vec e = exp_of_negative(load(row + i) - top);
    store(row + i, e);
    sum += e;
  }
  return 1 / sum_of(sum);
}

// Its result takes the place of the queries.
static void attend(const Attention& a, const Head& h, float* const* tokens, const int* real, int queries, int head) {
  const int places = a.window * a.window, length = filled(places), dim = a.head_dim, all = a.heads * dim;
  const float* query[queries];
  float scale[queries];
  for (int i = 0; i < queries; i++) query[i] = tokens[real[i]] + head * dim;
  pack_across([=](int place) { return tokens[place] + all + head * dim; }, places, dim, h.keys);
  pack_along([=](int place) { return tokens[place] + 2 * all + head * dim; }, places, dim, h.values);
  float* scores = h.scores;
  const float* const* from = query;
  const float* bias = a.bias + (size_t)head * places * length;
  product([=](int r) { return from[r]; }, queries, h.keys, dim, vectors_of(places),
          [=](int r, int c, vec v) {
            store(scores + (size_t)r * length + c, v + load(bias + (size_t)real[r] * length + c));
          });
  for (int r = 0; r < queries; r++) scale[r] = exponentials(scores + (size_t)r * length, length);
  const float* factor = scale;
  product([=](int r) { return scores + (size_t)r * length; }, queries, h.values, places, vectors_of(dim),
          [=](int r, int c, vec v) { store_part((float*)from[r] + c, v * splat(factor[r]), dim - c); });
}

// Cells of a piece: `rows` rows of `width` cells, the first at (first, start), rows counted through all pictures.
struct Cells {
  int first, rows, start, width;
};

static Cells cells_of(const Attention& a, const Piece& p) {
  const int k = a.window, strips = (a.height + k - 1) / k, columns = (a.width + k - 1) / k;
  const int above = (strips * k - a.height) / 2, before = (columns * k - a.width) / 2;
  auto row_of = [=](int strip) {
    const int row = strip % strips * k - above;
    return strip / strips * a.height + (row > 0 ? row : 0);
  };
  const int start = p.left * k - before, stop = p.right * k - before;
  const int from = start > 0 ? start : 0, to = stop < a.width ? stop : a.width;
  return {row_of(p.begin), row_of(p.end) - row_of(p.begin), from, to - from};
}

// Heads from to until of a window, given by its strip and column; `t` holds the tokens of `cells`.
static void attend_window(const Attention& a, const Tokens& t, const Head& h, const Cells& cells, int strip, int column,
                          int from, int until) {
  const int k = a.window, strips = (a.height + k - 1) / k, columns = (a.width + k - 1) / k, places = k * k;
  const int top = strip % strips * k - (strips * k - a.height) / 2, left = column * k - (columns * k - a.width) / 2;
  const int first = cells.first - strip / strips * a.height, stride = packed_stride(a);
  float* tokens[places];
  int real[places], queries = 0;
  for (int i = 0; i < places; i++) {
    const int row = top + i / k, cell = left + i % k;
    const bool inside = row >= 0 && row < a.height && cell >= 0 && cell < a.width;
    tokens[i] = inside ? t.qkv + ((ptrdiff_t)(row - first) * cells.width + cell - cells.start) * stride : t.zeros;
    if (inside) real[queries++] = i;
  }
  for (int head = from; head < until && queries; head++) attend(a, h, tokens, real, queries, head);
}

static void normalise_tokens(const Attention& a, const Tokens& t, const Cells& cells, int begin, int end) {
  for (int i = begin; i < end; i++) {
    const size_t row = cells.first + i / cells.width, column = cells.start + i % cells.width;
    t.places[i] = (row * a.width + column) * a.channels;
    normalise(a.x + t.places[i], t.normed + (size_t)i * a.channels, a.channels, a.eps);
  }
}

static void pack(const Attention& a, const Tokens& t, int tokens, Vectors share) {
  const int stride = packed_stride(a), channels = a.channels;
  float *normed = t.normed, *qkv = t.qkv;
  const float* bias = a.qkv_bias;
  product_of_share([=](int r) { return normed + (size_t)r * channels; }, tokens, a.qkv, channels, share,
                   [=](int r, int c, vec v) { store(qkv + (size_t)r * stride + c, v + load(bias + c)); });
}

static void project(const Attention& a, const Tokens& t, int tokens, Vectors share) {
  const int stride = packed_stride(a), channels = a.channels;
  float *qkv = t.qkv, *y = a.y;
  const float *x = a.x, *bias = a.proj_bias;
  const size_t* places = t.places;
  product_of_share([=](int r) { return qkv + (size_t)r * stride; }, tokens, a.proj, a.heads * a.head_dim, share,
                   [=](int r, int c, vec v) {
                     const int part = channels - c;
                     const size_t at = places[r] + c;
                     store_part(y + at, v + load(bias + c) + load_part(x + at, part), part);
                   });
}

static void work(const Attention& a, const Piece& p) {
  const Cells cells = cells_of(a, p);
  const int tokens = cells.rows * cells.width;
  const size_t floats = (token_floats(a, tokens) + LANES - 1) / LANES * LANES;
  float* memory = thread_buffer(floats + head_floats(a));
  const Tokens t = tokens_in(a, tokens, memory);
  const Head h = head_in(a, memory + floats);
  normalise_tokens(a, t, cells, 0, tokens);
  pack(a, t, tokens, {0, vectors_of(3 * a.heads * a.head_dim)});
  for (int strip = p.begin; strip < p.end; strip++)
    for (int column = p.left; column < p.right; column++)
      attend_window(a, t, h, cells, strip, column, 0, a.heads);
  project(a, t, tokens, {0, vectors_of(a.channels)});
}

// All tokens at once: threads take outputs of the products, and heads of windows between them.
static void work_together(const Attention& a, int strips, int columns) {
  const Cells cells = {0, a.batch * a.height, 0, a.width};
  const int tokens = cells.rows * cells.width, heads = strips * columns * a.heads;
  const Tokens t = tokens_in(a, tokens, shared_buffer(token_floats(a, tokens)));
  const int parts = a.threads;
  for_parts(parts, parts, [&](int i) {
    normalise_tokens(a, t, cells, tokens * i / parts, tokens * (i + 1) / parts);
  });
  for_parts(parts, parts, [&](int i) { pack(a, t, tokens, share_of(vectors_of(3 * a.heads * a.head_dim), i, parts)); });
  for_parts(parts, heads, [&](int i) {
    const Head h = head_in(a, thread_buffer(head_floats(a)));
    const int window = i / a.heads, head = i % a.heads;
    attend_window(a, t, h, cells, window / columns, window % columns, head, head + 1);
  });
  for_parts(parts, parts, [&](int i) { project(a, t, tokens, share_of(vectors_of(a.channels), i, parts)); });
}

extern "C" void hrformer_attention(const Attention* settings) {
  const Attention a = *settings;
  for_pieces(a, STRIP_TOKENS, [&](const Piece& piece) { work(a, piece); },
             [&](int strips, int columns) { work_together(a, strips, columns); });
}
