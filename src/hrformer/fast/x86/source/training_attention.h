// Window attention in training: what its forward and its backward pass share.
//
// A group of windows passes through all of it at once. Its tokens are gathered window by window, so that those of a
// window follow each other in a thread's memory. Tokens of the padding hold the biases of queries, keys and values and
// take part as keys and values; nobody reads what they ask.

#pragma once

#include "training_norms.h"
#include "training_products.h"
#include "window_packing.h"

struct AttentionSize {
  int batch, height, width, channels, window, heads;
  float layer_eps;
  int places() const { return window * window; }
  int dim() const { return channels / heads; }
  int strips() const { return (height + window - 1) / window; }
  int columns() const { return (width + window - 1) / window; }
  int windows() const { return batch * strips() * columns(); }
  int parts(int threads) const { return threads < windows() ? threads : windows(); }
  // Windows of a group.
  int group() const { return places() < GROUP_TOKENS ? GROUP_TOKENS / places() : 1; }
  int narrow() const { return filled(channels); }
  int wide() const { return filled(3 * channels); }
  // Floats between rows of scores.
  int length() const { return filled(places()); }
  size_t bias_floats() const { return (size_t)heads * places() * length(); }

 private:
  static const int GROUP_TOKENS = 200;
};

struct AttentionWeights {
  const float *layer_weight, *layer_bias;  // (channels)
  const float *qkv, *qkv_bias;             // (3 * channels, channels)
  const float *proj, *proj_bias;           // (channels, channels)
  const float* bias;                       // (heads, places, places), or null
};

// Windows that a thread works on: of every token where it is on the map, of every place of a window its token.
struct Group {
  int windows, tokens;
  int* token;  // (tokens), counted through all pictures
  int* local;  // (windows, places): which of the tokens, or -1: padding
};

static INLINE size_t group_floats(const AttentionSize& s) { return 2 * whole_lines((size_t)s.group() * s.places()); }

static INLINE Group empty_group(Pieces& pieces, const AttentionSize& s) {
  const size_t places = (size_t)s.group() * s.places();
  return {0, 0, (int*)pieces.floats(places), (int*)pieces.floats(places)};
}

static inline void gather(const AttentionSize& s, int first, int last, Group& g) {
  const int k = s.window, above = (s.strips() * k - s.height) / 2, before = (s.columns() * k - s.width) / 2;
  g.windows = last - first;
  g.tokens = 0;
  for (int w = first; w < last; w++) {
    const int column = w % s.columns(), strip = w / s.columns() % s.strips(), picture = w / s.columns() / s.strips();
    int* local = g.local + (size_t)(w - first) * s.places();
    for (int row = strip * k - above, end = row + k; row < end; row++)
      for (int at = column * k - before, last = at + k; at < last; at++) {
        const bool inside = row >= 0 && row < s.height && at >= 0 && at < s.width;
        *local++ = inside ? g.tokens : -1;
        if (inside) g.token[g.tokens++] = (picture * s.height + row) * s.width + at;
      }
  }
}

// Calls `work(group)` for the groups of a part's windows.
template <class Work> static INLINE void for_groups(const AttentionSize& s, int part, int parts, Group& g, Work work) {
  const Share windows = share(s.windows(), part, parts);
  for (int first = windows.first; first < windows.last; first += s.group()) {
    gather(s, first, first + s.group() < windows.last ? first + s.group() : windows.last, g);
    work(g);
  }
}

// One head of one window. `rows` are the places' queries, keys and values, one after another in a row.
struct Head {
  int places, dim, channels, head;
  int first, queries;  // tokens of the window, within the group
  const int* local;    // (places)
  const float* const* rows;
};

// Where a part of the places' rows starts: 0 queries, 1 keys, 2 values.
static INLINE const float* row_of(const Head& h, int place, int part) {
  return h.rows[place] + part * h.channels + h.head * h.dim;
}

// Keys or values, transposed and as they are, in the panels of a product.
static inline void pack_across(const Head& h, int part, Packed* out) {
  pack_across([&](int place) { return row_of(h, place, part); }, h.places, h.dim, out);
}

static inline void pack_along(const Head& h, int part, Packed* out) {
  pack_along([&](int place) { return row_of(h, place, part); }, h.places, h.dim, out);
}

// Softmax of a row. The lanes beyond its places hold very negative numbers and become zero, as does what lies below
// exp(-80): numbers too small for float32's normal range make a processor slow.
static inline void softmax(float* row, int length) {
  vec most = load(row), sum = {};
  for (int i = LANES; i < length; i += LANES) most = larger(most, load(row + i));
  const vec top = splat(largest_of(most));
  for (int i = 0; i < length; i += LANES) {
    const vec off = load(row + i) - top, e = off < splat(-80) ? splat(0) : exp_of_negative(off);
    store(row + i, e);
    sum += e;
  }
  const vec factor = splat(1 / sum_of(sum));
  for (int i = 0; i < length; i += LANES) store(row + i, load(row + i) * factor);
}

// Probabilities of a head's queries, (queries, length). `bias` is the head's, (places, length); `packed` is overwritten
// with the keys.
static inline void probabilities(const Head& h, const float* query, int stride, const float* bias, Packed* packed,
                                 float* out) {
  const int length = filled(h.places), first = h.first;
  const float scale = 1 / __builtin_sqrtf((float)h.dim);
  int place[h.queries];
  for (int i = 0; i < h.places; i++)
    if (h.local[i] >= 0) place[h.local[i] - first] = i;
  const int* at = place;
  pack_across(h, 1, packed);
  product([=](int r) { return query + (size_t)r * stride; }, h.queries, packed, h.dim, vectors_of(h.places),
          [=](int r, int c, vec v) {
            store(out + (size_t)r * length + c, v * splat(scale) + load(bias + (size_t)at[r] * length + c));
          });
  for (int r = 0; r < h.queries; r++) softmax(out + (size_t)r * length, length);
}

// What the queries attend to, (queries, dim), rows `stride` floats apart. `packed` is overwritten with the values.
static inline void attend(const Head& h, const float* probability, Packed* packed, float* out, int stride) {
  const int length = filled(h.places), dim = h.dim;
  pack_along(h, 2, packed);
  product([=](int r) { return probability + (size_t)r * length; }, h.queries, packed, h.places, vectors_of(dim),
          [=](int r, int c, vec v) { store_part(out + (size_t)r * stride + c, v, dim - c); });
}

static INLINE size_t packed_head_floats(const AttentionSize& s) {
  const size_t across = packed_floats(s.dim(), s.places()), along = packed_floats(s.places(), s.dim());
  return across > along ? across : along;
}

// Calls `work(head)` for every head of the windows that have tokens. `qkv` are the group's rows.
template <class Work>
static INLINE void for_heads(const AttentionSize& s, const Group& g, const float* qkv, const float* padding,
                             Work work) {
  const float* rows[s.places()];
  for (int w = 0, first = 0; w < g.windows; w++) {
    const int* local = g.local + (size_t)w * s.places();
    int queries = 0;
    for (int i = 0; i < s.places(); i++) {
      rows[i] = local[i] >= 0 ? qkv + (size_t)local[i] * s.wide() : padding;
      queries += local[i] >= 0;
    }
    for (int head = 0; head < s.heads && queries; head++)
      work(Head{s.places(), s.dim(), s.channels, head, first, queries, local, rows});
    first += queries;
  }
}

// The group's tokens after the layer norm, and their queries, keys and values; `plain` and `rstd` as in layer_norm.
static inline void queries_keys_values(const AttentionSize& s, const AttentionWeights& w, const Group& g,
                                       const float* x, const Packed* w_qkv, const float* bias, float* normed,
                                       float* plain, float* rstd, float* qkv) {
  const int narrow = s.narrow(), wide = s.wide();
  const Layer layer = {w.layer_weight, w.layer_bias, s.layer_eps};
  const int *token = g.token, channels = s.channels;
  auto row = [=](int t) { return x + (size_t)token[t] * channels; };
  layer_norm(layer, row, g.tokens, channels, narrow, normed, plain, rstd);
  product([=](int r) { return normed + (size_t)r * narrow; }, g.tokens, w_qkv, s.channels, vectors_of(3 * s.channels),
          [=](int r, int c, vec v) { store(qkv + (size_t)r * wide + c, v + load(bias + c)); });
}

// The bias with rows of whole vectors, very negative where filled.
static inline float* padded_bias(Pieces& pieces, const AttentionSize& s, const float* bias) {
  float* out = pieces.floats(s.bias_floats());
  for (int r = 0; r < s.heads * s.places(); r++)
    for (int c = 0; c < s.length(); c++)
      out[(size_t)r * s.length() + c] = c >= s.places() ? -1e30f : bias ? bias[(size_t)r * s.places() + c] : 0;
  return out;
}
