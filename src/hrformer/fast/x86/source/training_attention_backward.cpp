// Backward pass of window attention, see training_attention.cpp. A group of windows is computed again and taken back
// in one go; only the input and the gradient of the output are read from memory.

#include "training_attention.h"

struct AttentionTrainingBackward {
  const float* grad;  // (batch, height, width, channels), of the output
  const float* x;
  float* grad_x;
  AttentionSize size;
  AttentionWeights weights;
  float *layer_weight_grad, *layer_bias_grad;
  float *qkv_grad, *qkv_bias_grad;    // (3 * channels, channels), (3 * channels)
  float *proj_grad, *proj_bias_grad;  // (channels, channels), (channels)
  float* bias_grad;                   // (heads, places, places), or null
  int residual;
  int threads;
};

// Sums over tokens: of gradients of vectors, where each starts.
struct SumPlaces {
  int layer, qkv_bias, proj_bias, bias, size;
};

static SumPlaces sums_of(const AttentionSize& s) {
  const int narrow = s.narrow(), first = 2 * narrow, second = first + s.wide(), third = second + narrow;
  return {0, first, second, third, third + (int)s.bias_floats()};
}

// What the parts of the work share.
struct Plan {
  int parts;
  const Packed *qkv, *qkv_back, *proj_back;
  const float *qkv_bias, *bias;
  SumPlaces at;
  double* sums;                 // (parts, at.size)
  float *qkv_sums, *proj_sums;  // (parts, grad_rows(channels), filled 3 * channels or channels)
};

// A thread's memory. Rows of tokens are `narrow` or `wide` floats long.
struct Space {
  float *normed, *plain, *rstd, *grad, *attended, *back_attended, *back;  // narrow, but for rstd
  float *qkv, *back_qkv;                                                  // wide
  Packed* packed;
  float *probabilities, *back_scores, *back_head;
  float* sums;
};

static size_t space_sizes(const AttentionSize& s, size_t* sizes) {
  const size_t tokens = (size_t)s.group() * s.places(), narrow = tokens * s.narrow(), wide = tokens * s.wide();
  const size_t square = (size_t)s.places() * s.length(), head = (size_t)grad_rows(s.places()) * filled(s.dim());
  const size_t all[] = {narrow, narrow, tokens, narrow, narrow, narrow, narrow, wide, wide,
                        packed_head_floats(s), square, square, head, (size_t)sums_of(s).size};
  size_t total = 0;
  for (size_t size : all) {
    *sizes++ = size + LANES;
    total += whole_lines(size + LANES);
  }
  return total;
}

static Space space_for(const AttentionSize& s, Pieces& pieces) {
  size_t sizes[14];
  space_sizes(s, sizes);
  float* at[14];
  for (int i = 0; i < 14; i++) at[i] = pieces.floats(sizes[i]);
  return {at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8], (Packed*)at[9], at[10], at[11], at[12], at[13]};
}

// Gradients of the scores, (queries, length), and their sums over windows. `packed` holds the values across.
static void back_scores(const Head& h, const float* probabilities, const float* back, int stride, const Packed* packed,
                        float* bias_sums, float* out) {
  const int length = filled(h.places);
  product([=](int r) { return back + (size_t)r * stride; }, h.queries, packed, h.dim, vectors_of(h.places),
          [=](int r, int c, vec v) { store(out + (size_t)r * length + c, v); });
  for (int i = 0, r = 0; i < h.places; i++) {
    if (h.local[i] < 0) continue;
    const float* probability = probabilities + (size_t)r * length;
    float *row = out + (size_t)r++ * length, *sums = bias_sums + (size_t)i * length;
    vec along = {};
    for (int c = 0; c < length; c += LANES) along += load(probability + c) * load(row + c);
    const vec mean = splat(sum_of(along));
    for (int c = 0; c < length; c += LANES) {
      const vec grad = load(probability + c) * (load(row + c) - mean);
      store(row + c, grad);
      store(sums + c, load(sums + c) + grad);
    }
  }
}

// Adds the gradients of a head's keys or values, (places, filled dim), to those of the group; padding's to its own.
static void put_back(const Head& h, int part, const float* grads, float scale, float* back_qkv, int wide,
                     float* padding) {
  for (int i = 0; i < h.places; i++) {
    const size_t at = (size_t)part * h.channels + (size_t)h.head * h.dim;
    const float* from = grads + (size_t)i * filled(h.dim);
    for (int d = 0; d < h.dim; d += LANES) {
      const vec grad = load(from + d) * splat(scale);
      const int rest = h.dim - d;
      if (h.local[i] >= 0) {
        store_part(back_qkv + (size_t)h.local[i] * wide + at + d, grad, rest);
      } else {
        store_part(padding + at + d, load_part(padding + at + d, rest) + grad, rest);
      }
    }
  }
}

// One head of one window: from the gradient of what it attended to, to those of queries, keys and values.
static void back_head(const AttentionSize& s, const Plan& p, const Space& m, const Head& h) {
  const int narrow = s.narrow(), wide = s.wide(), length = s.length(), dim = h.dim, stride = filled(dim);
  const size_t start = (size_t)h.head * dim, own = (size_t)h.first * narrow + start;
  const size_t bias_start = (size_t)h.head * h.places * length;
  const float *query = m.qkv + (size_t)h.first * wide + start, *back = m.back_attended + own;
  const float scale = 1 / __builtin_sqrtf((float)dim);
  probabilities(h, query, wide, p.bias + bias_start, m.packed, m.probabilities);
  attend(h, m.probabilities, m.packed, m.attended + own, narrow);
  pack_across(h, 2, m.packed);
  back_scores(h, m.probabilities, back, narrow, m.packed, m.sums + p.at.bias + bias_start, m.back_scores);
  pack_along(h, 1, m.packed);
  float* back_query = m.back_qkv + (size_t)h.first * wide + start;
  const float* scores = m.back_scores;
  product([=](int r) { return scores + (size_t)r * length; }, h.queries, m.packed, h.places, vectors_of(dim),
          [=](int r, int c, vec v) { store_part(back_query + (size_t)r * wide + c, v * splat(scale), dim - c); });
  const size_t size = (size_t)grad_rows(h.places) * stride * sizeof(float);
  float* padding = m.sums + p.at.qkv_bias;
  memset(m.back_head, 0, size);
  add_products(m.back_scores, length, h.places, query, wide, dim, h.queries, m.back_head);
  put_back(h, 1, m.back_head, scale, m.back_qkv, wide, padding);
  memset(m.back_head, 0, size);
  add_products(m.probabilities, length, h.places, back, narrow, dim, h.queries, m.back_head);
  put_back(h, 2, m.back_head, 1, m.back_qkv, wide, padding);
}

// Adds a band's tokens to sums over them.
static void add_tokens(const float* rows, int tokens, int stride, int channels, float* sums) {
  for (int c = 0; c < channels; c += LANES) {
    const int part = channels - c;
    vec sum = load_part(sums + c, part);
    for (int t = 0; t < tokens; t++) sum += load_part(rows + (size_t)t * stride + c, part);
    store_part(sums + c, sum, part);
  }
}

static void back_group(const AttentionTrainingBackward& f, const Plan& p, const Space& m, int part, const Group& g) {
  const AttentionSize s = f.size;
  const int channels = s.channels, narrow = s.narrow(), wide = s.wide();
  memset(m.sums, 0, p.at.size * sizeof(float));
  queries_keys_values(s, f.weights, g, f.x, p.qkv, p.qkv_bias, m.normed, m.plain, m.rstd, m.qkv);
  for (int t = 0; t < g.tokens; t++)
    for (int c = 0; c < channels; c += LANES)
      store(m.grad + (size_t)t * narrow + c, load_part(f.grad + (size_t)g.token[t] * channels + c, channels - c));
  const float *grad = m.grad, *back_qkv = m.back_qkv;
  float *back_attended = m.back_attended, *back = m.back;
  product([=](int r) { return grad + (size_t)r * narrow; }, g.tokens, p.proj_back, channels, vectors_of(channels),
          [=](int r, int c, vec v) { store(back_attended + (size_t)r * narrow + c, v); });
  for_heads(s, g, m.qkv, p.qkv_bias, [&](const Head& h) { back_head(s, p, m, h); });
  add_tokens(m.back_qkv, g.tokens, wide, 3 * channels, m.sums + p.at.qkv_bias);
  add_tokens(m.grad, g.tokens, narrow, channels, m.sums + p.at.proj_bias);
  if (f.qkv_grad)
    add_products(m.normed, narrow, channels, m.back_qkv, wide, 3 * channels, g.tokens,
              p.qkv_sums + (size_t)part * grad_rows(channels) * wide);
  if (f.proj_grad)
    add_products(m.grad, narrow, channels, m.attended, narrow, channels, g.tokens,
              p.proj_sums + (size_t)part * grad_rows(channels) * narrow);
  product([=](int r) { return back_qkv + (size_t)r * wide; }, g.tokens, p.qkv_back, 3 * channels, vectors_of(channels),
          [=](int r, int c, vec v) { store(back + (size_t)r * narrow + c, v); });
  const Layer layer = {f.weights.layer_weight, f.weights.layer_bias, s.layer_eps};
  const int* token = g.token;
  const float* past = f.residual ? f.grad : nullptr;
  float* out = f.grad_x;
  layer_norm_backward(
      layer, m.back, m.plain, m.rstd, g.tokens, channels, narrow,
      [=](int t) { return past ? past + (size_t)token[t] * channels : nullptr; },
      [=](int t) { return out + (size_t)token[t] * channels; }, m.sums + p.at.layer);
  double* sums = p.sums + (size_t)part * p.at.size;
  for (int i = 0; i < p.at.size; i++) sums[i] += m.sums[i];
}

static size_t plan_floats(const AttentionTrainingBackward& f) {
  const AttentionSize s = f.size;
  const size_t narrow = s.narrow(), wide = s.wide(), parts = s.parts(f.threads);
  const size_t products = 2 * narrow * wide + narrow * narrow, sums = 2 * parts * sums_of(s).size;
  return products + wide + s.bias_floats() + sums + parts * grad_rows(s.channels) * (wide + narrow) + 16 * whole_lines(1);
}

static Plan make_plan(const AttentionTrainingBackward& f, Pieces& pieces) {
  const AttentionSize s = f.size;
  const AttentionWeights w = f.weights;
  Plan p = {};
  p.parts = s.parts(f.threads);
  p.qkv = pack(pieces, w.qkv, s.channels, 3 * s.channels, true, f.threads);
  p.qkv_back = pack(pieces, w.qkv, 3 * s.channels, s.channels, false, f.threads);
  p.proj_back = pack(pieces, w.proj, s.channels, s.channels, false, f.threads);
  p.qkv_bias = padded(pieces, w.qkv_bias, 3 * s.channels);
  p.bias = padded_bias(pieces, s, w.bias);
  p.at = sums_of(s);
  p.sums = pieces.zero_doubles((size_t)p.parts * p.at.size);
  p.qkv_sums = pieces.zeros((size_t)p.parts * grad_rows(s.channels) * s.wide());
  p.proj_sums = pieces.zeros((size_t)p.parts * grad_rows(s.channels) * s.narrow());
  return p;
}

// Sum over the parts of what starts at `first`, `count` numbers.
static void write_sums(const Plan& p, int first, int count, float* out) {
  for (int i = 0; i < count; i++) {
    double total = 0;
    for (int part = 0; part < p.parts; part++) total += p.sums[(size_t)part * p.at.size + first + i];
    out[i] = (float)total;
  }
}

extern "C" void hrformer_attention_training_backward(const AttentionTrainingBackward* settings) {
  const AttentionTrainingBackward f = *settings;
  const AttentionSize s = f.size;
  Block block(plan_floats(f));
  Pieces pieces = {block.start};
  const Plan p = make_plan(f, pieces);
  for_parts(f.threads, p.parts, [&](int part) {
    size_t sizes[14];
    Pieces own = {thread_buffer(space_sizes(s, sizes) + group_floats(s))};
    const Space space = space_for(s, own);
    Group group = empty_group(own, s);
    const Ready ready;
    for_groups(s, part, p.parts, group, [&](const Group& g) { back_group(f, p, space, part, g); });
  });
  if (f.qkv_grad) sum_parts_transposed(p.qkv_sums, p.parts, s.channels, 3 * s.channels, f.qkv_grad, f.threads);
  if (f.proj_grad) sum_parts(p.proj_sums, p.parts, s.channels, s.channels, f.proj_grad, f.threads);
  write_sums(p, p.at.layer, s.channels, f.layer_weight_grad);
  write_sums(p, p.at.layer + s.narrow(), s.channels, f.layer_bias_grad);
  write_sums(p, p.at.qkv_bias, 3 * s.channels, f.qkv_bias_grad);
  write_sums(p, p.at.proj_bias, s.channels, f.proj_bias_grad);
  for (int r = 0; f.bias_grad && r < s.heads * s.places(); r++)
    write_sums(p, p.at.bias + r * s.length(), s.places(), f.bias_grad + (size_t)r * s.places());
}
