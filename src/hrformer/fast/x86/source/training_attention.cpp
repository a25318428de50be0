// Forward pass of window attention in training: layer norm, queries, keys and values, softmax attention in windows,
// projection. Nothing is kept for the backward pass, which computes it again.

#include "training_attention.h"

struct AttentionTraining {
  const float* x;  // (batch, height, width, channels)
  float* y;        // as x
  AttentionSize size;
  AttentionWeights weights;
  int residual;  // whether the input is added to the output
  int threads;
};

extern "C" void hrformer_attention_training(const AttentionTraining* settings) {
  const AttentionTraining f = *settings;
  const AttentionSize s = f.size;
  const AttentionWeights w = f.weights;
  const int channels = s.channels, narrow = s.narrow(), parts = s.parts(f.threads);
  Block block(whole_lines(packed_floats(channels, 3 * channels)) + whole_lines(packed_floats(channels, channels)) +
              whole_lines(s.wide()) + whole_lines(narrow) + whole_lines(s.bias_floats()));
  Pieces pieces = {block.start};
  const Packed* qkv_weight = pack(pieces, w.qkv, channels, 3 * channels, true, f.threads);
  const Packed* proj = pack(pieces, w.proj, channels, channels, true, f.threads);
  const float* qkv_bias = padded(pieces, w.qkv_bias, 3 * channels);
  const float* proj_bias = padded(pieces, w.proj_bias, channels);
  const float* bias = padded_bias(pieces, s, w.bias);
  const size_t tokens = (size_t)s.group() * s.places();
  for_parts(f.threads, parts, [&](int part) {
    const size_t sizes[] = {tokens * narrow, tokens * s.wide(), packed_head_floats(s), (size_t)s.places() * s.length()};
    size_t total = group_floats(s);
    for (size_t size : sizes) total += whole_lines(size + LANES);
    Pieces own = {thread_buffer(total)};
    float *normed = own.floats(sizes[0] + LANES), *qkv = own.floats(sizes[1] + LANES);
    Packed* packed = (Packed*)own.floats(sizes[2] + LANES);
    float* scores = own.floats(sizes[3] + LANES);
    Group group = empty_group(own, s);
    const Ready ready;
    for_groups(s, part, parts, group, [&](const Group& g) {
      queries_keys_values(s, w, g, f.x, qkv_weight, qkv_bias, normed, nullptr, nullptr, qkv);
      float* attended = normed;  // no longer needed
      for_heads(s, g, qkv, qkv_bias, [&](const Head& h) {
        const size_t start = (size_t)h.head * h.dim;
        const float* head_bias = bias + (size_t)h.head * h.places * s.length();
        probabilities(h, qkv + (size_t)h.first * s.wide() + start, s.wide(), head_bias, packed, scores);
        attend(h, scores, packed, attended + (size_t)h.first * narrow + start, narrow);
      });
      float* y = f.y;
      const float* added = f.residual ? f.x : nullptr;
      const int* token = g.token;
      product([=](int r) { return attended + (size_t)r * narrow; }, g.tokens, proj, channels, vectors_of(channels),
              [=](int r, int c, vec v) {
                const size_t at = (size_t)token[r] * channels + c;
                v += load(proj_bias + c);
                store_part(y + at, added ? v + load_part(added + at, channels - c) : v, channels - c);
              });
    });
  });
}
