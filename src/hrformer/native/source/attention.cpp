// Layer norm, window attention with relative position bias, projection and residual, for inference.
//
// A strip of windows, K rows of the map, passes through all of it before the next: its queries, keys and values stay
// in a core's cache. Tokens of the padding hold zeros: the biases of keys change no softmax, and those of values pass
// it unchanged, so that the caller has added them to the bias of the projection.

#include "product.h"
#include "transpose.h"

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

// A thread's memory: pointers into one buffer.
struct Space {
  float *normed, *qkv, *keys, *values, *scores, *zeros;
  size_t* places;
};

static int packed_stride(const Attention& a) { return filled(3 * a.heads * a.head_dim); }

static Space space_for(const Attention& a, int tokens) {
  const int places = a.window * a.window, wide = filled(a.head_dim);
  const size_t sizes[7] = {(size_t)tokens * a.channels,     (size_t)tokens * packed_stride(a),
                           (size_t)wide * filled(places),   (size_t)filled(places) * wide,
                           (size_t)places * filled(places), (size_t)packed_stride(a),
                           (size_t)tokens * sizeof(size_t) / sizeof(float)};
  size_t total = 0;
  for (size_t size : sizes) total += size + 2 * LANES;
  float* at = thread_buffer(total);
  float* starts[7];
  for (int i = 0; i < 7; i++) {
    starts[i] = at;
    at += (sizes[i] + 2 * LANES - 1) / LANES * LANES;
  }
  memset(starts[5], 0, sizes[5] * sizeof(float));
  return {starts[0], starts[1], starts[2], starts[3], starts[4], starts[5], (size_t*)starts[6]};
}

// Keys of a window, transposed and in the panels of a product: (head_dim, places). `rows` are where their tokens are.
static void pack_keys(const float* const* rows, int places, int dim, float* out) {
  for (int start = 0, left = vectors_of(places); left > 0;) {
    const int taken = panel_vectors(left);
    for (int v = 0; v < taken; v++)
      for (int d = 0; d < dim; d += LANES) {
        vec block[LANES];
        const int part = dim - d;
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
          const int place = start + v * LANES + i;
          block[i] = place < places ? load_part(rows[place] + d, part) : (vec){};
        }
        transpose(block);
        for (int i = 0; i < LANES && d + i < dim; i++) store(out + ((size_t)(d + i) * taken + v) * LANES, block[i]);
      }
    out += (size_t)taken * LANES * dim;
    start += taken * LANES;
    left -= taken;
  }
}

// Values of a window in the panels of a product: (places, head_dim).
static void pack_values(const float* const* rows, int places, int dim, float* out) {
  for (int start = 0, left = vectors_of(dim); left > 0;) {
    const int taken = panel_vectors(left);
    for (int place = 0; place < places; place++)
      for (int v = 0; v < taken; v++) {
        const int d = start + v * LANES;
        store(out, load_part(rows[place] + d, dim - d));
        out += LANES;
      }
    start += taken * LANES;
    left -= taken;
  }
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

// One head of one window. Its result takes the place of the queries.
static void attend(const Attention& a, const Space& s, float* const* tokens, const int* real, int queries, int head) {
  const int places = a.window * a.window, length = filled(places), dim = a.head_dim, all = a.heads * dim;
  const float *keys[places], *values[places], *query[queries];
  float scale[queries];
  for (int i = 0; i < places; i++) {
    keys[i] = tokens[i] + all + head * dim;
    values[i] = tokens[i] + 2 * all + head * dim;
  }
  for (int i = 0; i < queries; i++) query[i] = tokens[real[i]] + head * dim;
  pack_keys(keys, places, dim, s.keys);
  pack_values(values, places, dim, s.values);
  float* scores = s.scores;
  const float* const* from = query;
  const float* bias = a.bias + (size_t)head * places * length;
  product([=](int r) { return from[r]; }, queries, s.keys, dim, vectors_of(places),
          [=](int r, int c, vec v) {
            store(scores + (size_t)r * length + c, v + load(bias + (size_t)real[r] * length + c));
          });
  for (int r = 0; r < queries; r++) scale[r] = exponentials(scores + (size_t)r * length, length);
  const float* factor = scale;
  product([=](int r) { return scores + (size_t)r * length; }, queries, s.values, places, vectors_of(dim),
          [=](int r, int c, vec v) { store_part((float*)from[r] + c, v * splat(factor[r]), dim - c); });
}

// A piece of work: strips begin to end, counted through all pictures, and of them the windows of columns left to right.
struct Piece {
  int begin, end, left, right;
};

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

// The window whose first cell is (top, left) of the map, which may lie outside; `first`: the picture's row that s.qkv
// starts at.
static void attend_window(const Attention& a, const Space& s, const Cells& cells, int first, int top, int left) {
  const int places = a.window * a.window, stride = packed_stride(a);
  float* tokens[places];
  int real[places], queries = 0;
  for (int i = 0; i < places; i++) {
    const int row = top + i / a.window, column = left + i % a.window;
    const bool inside = row >= 0 && row < a.height && column >= 0 && column < a.width;
    const ptrdiff_t token = (ptrdiff_t)(row - first) * cells.width + column - cells.start;
    tokens[i] = inside ? s.qkv + token * stride : s.zeros;
    if (inside) real[queries++] = i;
  }
  for (int head = 0; head < a.heads && queries; head++) attend(a, s, tokens, real, queries, head);
}

static void work(const Attention& a, const Piece& p) {
  const int k = a.window, strips = (a.height + k - 1) / k, columns = (a.width + k - 1) / k;
  const int above = (strips * k - a.height) / 2, before = (columns * k - a.width) / 2;
  const int stride = packed_stride(a), all = a.heads * a.head_dim, channels = a.channels;
  const Cells cells = cells_of(a, p);
  const int tokens = cells.rows * cells.width;
  const Space s = space_for(a, tokens);
  size_t* places = s.places;  // where a token's channels lie in the map
  for (int t = 0; t < tokens; t++) {
    const size_t row = cells.first + t / cells.width, column = cells.start + t % cells.width;
    places[t] = (row * a.width + column) * channels;
    normalise(a.x + places[t], s.normed + (size_t)t * channels, channels, a.eps);
  }
  float *normed = s.normed, *packed = s.qkv, *y = a.y;
  const float *x = a.x, *bias = a.qkv_bias, *proj_bias = a.proj_bias;
  product([=](int r) { return normed + (size_t)r * channels; }, tokens, a.qkv, channels, vectors_of(3 * all),
          [=](int r, int c, vec v) { store(packed + (size_t)r * stride + c, v + load(bias + c)); });
  for (int strip = p.begin; strip < p.end; strip++)
    for (int column = p.left; column < p.right; column++)
      attend_window(a, s, cells, cells.first - strip / strips * a.height, strip % strips * k - above,
                    column * k - before);
  product([=](int r) { return packed + (size_t)r * stride; }, tokens, a.proj, all, vectors_of(channels),
          [=](int r, int c, vec v) {
            const int part = channels - c;
            const size_t at = places[r] + c;
            store_part(y + at, v + load(proj_bias + c) + load_part(x + at, part), part);
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
  const int share = (strips + a.threads - 1) / a.threads;
  int group = STRIP_TOKENS / (a.window * a.width);
  if (group > share) group = share;
  if (group < 1) group = 1;
  const int groups = (strips + group - 1) / group, cuts = group == 1 ? cuts_of(strips, columns, a.threads) : 1;
#pragma omp parallel for num_threads(a.threads) schedule(dynamic, 1)
  for (int i = 0; i < groups * cuts; i++) {
    const int begin = i / cuts * group, end = begin + group < strips ? begin + group : strips, cut = i % cuts;
    work(a, {begin, end, columns * cut / cuts, columns * (cut + 1) / cuts});
  }
}
