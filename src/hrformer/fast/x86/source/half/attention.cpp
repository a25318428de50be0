// Layer norm, window attention with relative position bias, projection and residual in bfloat16, see ../attention.cpp.
//
// Tokens of a piece lie window by window, those of the map only, so that the queries of a window are rows of a product.
// Scores are made to be exponents of two: the caller has multiplied queries and biases by log2(e).

#include "../shares.h"
#include "half_product.h"
#include "heads.h"

struct Attention {
  const half* x;  // (batch, height, width, channels)
  half* y;        // as x
  int batch, height, width, channels;
  int window, heads, head_dim;  // head_dim: a multiple of 8
  float eps;
  const half* qkv;         // packed, grouped channels deep, in the order of the norm; outputs query, key, value
  const float* qkv_bias;   // (grouped 3 * heads * head_dim)
  const half* proj;        // packed, grouped heads * head_dim deep, in the order of the packed values
  const float* proj_bias;  // (grouped channels)
  const float* bias;       // (heads * window^2 + 16, grouped window^2), very negative where filled
  int threads;
};

// Tokens that a thread takes at once, where there are enough for all threads: weights are read once for them.
static const int STRIP_TOKENS = 192;

static int padded(int count) { return (count + 15) / 16 * 16; }

// An odd number of groups: rows a power of two apart would share few lines of the first cache.
static int packed_stride(const Attention& a) {
  const int groups = grouped(3 * a.heads * a.head_dim) / GROUP;
  return (groups / 2 * 2 + 1) * GROUP;
}

// What becomes of some tokens: normalised, group by group; then queries, keys and values; a token of the padding; and
// where in the map each token's channels lie.
struct Tokens {
  half* normed;
  size_t apart;
  half *qkv, *zeros;
  size_t* places;
};

// One head of one window.
struct Head {
  half *keys, *values, *shares;
  float *scores, *scales;
};

// Heads that take turns: tiles cannot load yet what vectors have just written for one, and work for the other.
static const int TURNS = 2;

// Rows that a product reads beyond the tokens: of the last window, up to a multiple of 16.
static size_t rows_for(int tokens) { return padded(tokens) + 16; }

static size_t token_halves(const Attention& a, int tokens) {
  const size_t places = tokens * sizeof(size_t) / sizeof(half);
  return rows_for(tokens) * (grouped(a.channels) + packed_stride(a)) + packed_stride(a) + GROUP + grouped(places);
}

static Tokens tokens_in(const Attention& a, int tokens, half* memory) {
  const size_t stride = packed_stride(a), rows = rows_for(tokens);
  half *qkv = memory + rows * grouped(a.channels), *zeros = qkv + rows * stride;
  memset(zeros, 0, (stride + GROUP) * sizeof(half));
  return {memory, rows * GROUP, qkv, zeros, (size_t*)(zeros + stride + GROUP)};
}

static size_t halves_of_head(const Attention& a) {
  const size_t places = a.window * a.window, deep = grouped(places);
  return padded(places) * grouped(a.head_dim) + deep * padded(a.head_dim) + rows_for(places) * (deep + 2);
}

// Scores are of one head at a time.
static size_t head_halves(const Attention& a) {
  const size_t places = a.window * a.window;
  return TURNS * grouped(halves_of_head(a)) + rows_for(places) * grouped(places) * 2;
}

static Head head_in(const Attention& a, half* memory, int number) {
  const size_t places = a.window * a.window, deep = grouped(places), one = grouped(halves_of_head(a));
  half* keys = memory + number % TURNS * one;
  half *values = keys + padded(places) * grouped(a.head_dim), *shares = values + deep * padded(a.head_dim);
  return {keys, values, shares, (float*)(memory + TURNS * one), (float*)(shares + rows_for(places) * deep)};
}

// Powers of two of four rows of scores into `shares`; returns the sum of each, in the first four lanes. MOST: of the
// scores less the largest of their row, which then is 1.
template <bool MOST> static INLINE vec exponentials(const float* rows, int length, half* shares) {
  vec top[4] = {}, sum[4] = {};
#define EACH(...) \
  _Pragma("GCC unroll 4") for (int r = 0; r < 4; r++) __VA_ARGS__
  if (MOST) {
    vec most[4];
    EACH(most[r] = load(rows + r * length));
    for (int i = LANES; i < length; i += LANES) EACH(most[r] = larger(most[r], load(rows + r * length + i)));
    const vec tops = of_four(most, [](vec a, vec b) { return larger(a, b); });
    EACH(top[r] = splat(tops[r]));
  }
  for (int i = 0; i < length; i += GROUP) EACH({
    const float* row = rows + r * length + i;
    const Pair scores = {load(row), load(row + LANES)};
    const Pair less = MOST ? Pair{scores.first - top[r], scores.second - top[r]} : scores;
    const Pair e = {power_of_two(less.first), power_of_two(less.second)};
    store_halves(shares + r * length + i, e);
    sum[r] += e.first + e.second;
  });
#undef EACH
  return of_four(sum, [](vec a, vec b) { return a + b; });
}

// A head of a window: its memory and number; the window's tokens, of every place of it and of those that fill it up to
// a multiple of 16; the places inside the map; and
// their rows, one after another.
struct Inside {
  Head memory;
  int head;
  half** tokens;
  int* real;
  half* queries;
  int count;
};

static void pack_head(const Attention& a, const Inside& w) {
  const Head& h = w.memory;
  const int places = a.window * a.window, dim = a.head_dim, all = a.heads * dim;
  pack_keys(w.tokens, all + w.head * dim, places, dim, h.keys);
  pack_values(w.tokens, 2 * all + w.head * dim, places, dim, h.values);
}

static void score(const Attention& a, const Inside& w) {
  const Head& h = w.memory;
  const int head = w.head;
  const int places = a.window * a.window, length = grouped(places), dim = a.head_dim;
  const float* bias = a.bias + (size_t)head * places * length;
  const Left queries = whole_rows(w.queries + head * dim, packed_stride(a));
  if (w.count < places) {
    for (int r = 0; r < w.count; r++)
      memcpy(h.scores + (size_t)r * length, bias + (size_t)w.real[r] * length, length * sizeof(float));
    bias = h.scores;
  } else if (length - padded(places)) {  // what no tile writes
    for (int r = 0; r < places; r++) store(h.scores + (size_t)(r + 1) * length - LANES, load(bias + length - LANES));
  }
  plain_product(queries, w.count, h.keys, grouped(dim), places, {bias, (size_t)length, h.scores, (size_t)length});
}

// Softmax but for the division; the scales are 1 / sum. False where sums say that numbers were too large or too small.
template <bool MOST> static bool soften(const Attention& a, const Inside& w) {
  const Head& h = w.memory;
  const int length = grouped(a.window * a.window);
  for (int r = 0; r < w.count; r += 4)
    store(h.scales + r, exponentials<MOST>(h.scores + (size_t)r * length, length, h.shares + (size_t)r * length));
  vec least = splat(1), most = splat(1);
  for (int r = 0; r < w.count; r += LANES) {
    const vec sums = first_or(h.scales + r, w.count - r, 1);
    least = smaller(sums, least);
    most = larger(sums, most);
    store(h.scales + r, splat(1) / sums);
  }
  return largest_of(most) < 0x1p60f && -largest_of(-least) > 0x1p-60f;
}

// The result takes the place of the queries.
static void mix(const Attention& a, const Inside& w) {
  const Head& h = w.memory;
  const int length = grouped(a.window * a.window), dim = a.head_dim, stride = packed_stride(a);
  const float* scale = h.scales;
  half* query = w.queries + w.head * dim;
  half_product(whole_rows(h.shares, length), w.count, h.values, length, dim, nullptr,
               [=](int r, int c, Pair(&v)[2], int n) {
                 ROWS_OF_TWO(i, n)
                 store_halves(query + (size_t)(r + i) * stride + c, splat(scale[r + i]) * v[i], dim - c);
               });
}

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
  const int begin = w.left < 0 ? -w.left : 0, end = w.left + k > a.width ? a.width - w.left : k;
  for (int i = 0; i < k; i++) {
    const int row = w.top + i;
    if (row < 0 || row >= a.height) continue;
    const size_t cells = ((size_t)w.picture * a.height + row) * a.width;
    for (int j = begin; j < end; j++) {
      if (places) places[count] = (cells + w.left + j) * a.channels;
      real[count++] = i * k + j;
    }
  }
  return count;
}

// Heads of windows, begin to end: the heads of the first window, of the second, and so on. `window` gives a window by
// its number, `firsts` where its tokens begin.
template <class WindowOf>
static void attend(const Attention& a, const Tokens& t, half* memory, WindowOf window, const int* firsts, int begin,
                   int end) {
  const int places = a.window * a.window, filled = padded(places), stride = packed_stride(a);
  half* tokens[TURNS * filled];
  int real[TURNS * places];
  Inside turns[TURNS];
  auto prepare = [&](int i) {
    const int number = i / a.heads, turn = i % TURNS;
    Inside& w = turns[turn];
    half* queries = t.qkv + (size_t)firsts[number] * stride;
    w = {head_in(a, memory, turn), i % a.heads, tokens + turn * filled, real + turn * places, queries, 0};
    w.count = look_round(a, window(number), w.real, nullptr);
    for (int j = 0; j < filled; j++) w.tokens[j] = t.zeros;
    for (int j = 0; j < w.count; j++) w.tokens[w.real[j]] = queries + (size_t)j * stride;
    pack_head(a, w);
  };
  for (int i = 0; i < TURNS; i++) {
    const Head h = head_in(a, memory, i);
    memset(h.keys, 0, (h.shares - h.keys) * sizeof(half));  // packing leaves out what is always zero
  }
  if (begin < end) prepare(begin);
  for (int i = begin; i < end; i++) {
    const Inside& now = turns[i % TURNS];
    score(a, now);
    if (i > begin) mix(a, turns[(i - 1) % TURNS]);
    if (i + 1 < end) prepare(i + 1);
    if (!soften<false>(a, now)) {
      score(a, now);
      soften<true>(a, now);
    }
  }
  if (begin < end) mix(a, turns[(end - 1) % TURNS]);
}

static void normalise_tokens(const Attention& a, const Tokens& t, int begin, int end) {
  const half* x = a.x;
  const size_t* places = t.places;
  half_normalise_all([=](int i) { return x + places[i]; }, begin, end, t.normed, t.apart, a.channels, a.eps);
}

static void pack(const Attention& a, const Tokens& t, int tokens, Columns share) {
  const int stride = packed_stride(a), depth = grouped(a.channels);
  half* qkv = t.qkv;
  const Left normed = {t.normed, GROUP, t.apart};
  product_of_columns(normed, tokens, a.qkv, depth, share, a.qkv_bias, [=](int r, int c, Pair(&v)[2], int n) {
    ROWS_OF_TWO(i, n) store_halves(qkv + (size_t)(r + i) * stride + c, v[i]);
  });
}

static void project(const Attention& a, const Tokens& t, int tokens, Columns share) {
  const int channels = a.channels;
  const half* x = a.x;
  half* y = a.y;
  const size_t* places = t.places;
  const Left attended = whole_rows(t.qkv, packed_stride(a));
  product_of_columns(attended, tokens, a.proj, grouped(a.heads * a.head_dim), share, a.proj_bias,
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
  int firsts[windows];
  const int tokens = place_tokens(a, p, t.places, firsts);
  normalise_tokens(a, t, 0, tokens);
  pack(a, t, tokens, {0, 3 * a.heads * a.head_dim});
  attend(a, t, memory + taken, [&](int i) { return window_of(a, p.begin + i / columns, p.left + i % columns); }, firsts,
         0, windows * a.heads);
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
  const int heads = windows * a.heads, chunks = (heads + TURNS - 1) / TURNS;
  for_parts(parts, chunks, [&](int i) {
    const Ready ready;
    half* memory = half_buffer(thread_buffer, head_halves(a));
    attend(a, t, memory, [&](int j) { return window_of(a, j / columns, j % columns); }, first, heads * i / chunks,
           heads * (i + 1) / chunks);
  });
  for_parts(parts, parts, [&](int i) {
    const Ready ready;
    project(a, t, tokens, columns_of(a.channels, i, parts));
  });
}

extern "C" void hrformer_attention(const Attention* settings) {
  const Attention a = *settings;
  for_pieces(a, STRIP_TOKENS, [&](const Piece& piece) { work(a, piece); },
             [&](int strips, int columns) { work_together(a, strips, columns); });
}
