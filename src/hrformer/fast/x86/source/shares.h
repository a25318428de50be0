// How a kernel's work is cut into parts for its threads, whatever its numbers are.

#pragma once

#include "team.h"

// Few tokens for several threads: their maps fit the caches, but every thread would read all weights for its rows. There
// threads share the outputs instead, and read a part of the weights each.
static const int FEW_TOKENS = 256;

// A piece of work: strips begin to end, counted through all pictures, and of them the windows of columns left to right.
struct Piece {
  int begin, end, left, right;
};

// Into how many pieces a strip is cut so that all threads get about as many windows; 1 where strips are enough.
static inline int cuts_of(int strips, int columns, int threads) {
  int best = 1, least = (strips + threads - 1) / threads * columns;
  for (int cuts = 2; cuts <= columns; cuts++) {
    const int most = (strips * cuts + threads - 1) / threads * ((columns + cuts - 1) / cuts);
    if (most * 20 < least * 19) best = cuts, least = most;
  }
  return best;
}

// Window attention piece by piece, about `strip_tokens` of them at once: `work(piece)`. Few tokens go all at once:
// `together(strips, columns)`.
template <class Attention, class Work, class Together>
static inline void for_pieces(const Attention& a, int strip_tokens, const Work& work, const Together& together) {
  const int strips = a.batch * ((a.height + a.window - 1) / a.window), columns = (a.width + a.window - 1) / a.window;
  if (a.threads > 1 && a.batch * a.height * a.width <= FEW_TOKENS) return together(strips, columns);
  const int share = (strips + a.threads - 1) / a.threads;
  int group = strip_tokens / (a.window * a.width);
  if (group > share) group = share;
  if (group < 1) group = 1;
  const int groups = (strips + group - 1) / group, cuts = group == 1 ? cuts_of(strips, columns, a.threads) : 1;
  for_parts(a.threads, groups * cuts, [&](int i) {
    const int begin = i / cuts * group, end = begin + group < strips ? begin + group : strips, cut = i % cuts;
    work(Piece{begin, end, columns * cut / cuts, columns * (cut + 1) / cuts});
  });
}

// A feed-forward network by rows, counted through all pictures: `work(begin, end)`, in bands of about `band_tokens`. Few
// tokens go all at once: `together()`.
template <class FeedForward, class Work, class Together>
static inline void for_row_shares(const FeedForward& f, int band_tokens, const Work& work, const Together& together) {
  const int pictures = f.rows / f.height, tokens = f.height * f.width;
  if (f.threads > 1 && f.rows * f.width <= FEW_TOKENS) return together();
  int parts = f.threads;
  // Many pictures: whole ones, enough at once that weights are read for many tokens, to whichever thread is free.
  if (pictures >= 4 * f.threads) {
    int at_once = (2 * band_tokens + tokens - 1) / tokens;
    if (at_once > pictures / f.threads) at_once = pictures / f.threads;
    parts = (pictures + at_once - 1) / at_once;
  }
  for_parts(f.threads, parts, [&](int part) {
    const int unit = parts > f.threads ? f.height : 1, all = f.rows / unit;
    const int begin = (int)((long)all * part / parts) * unit, end = (int)((long)all * (part + 1) / parts) * unit;
    if (end > begin) work(begin, end);
  });
}

// Bands of about `band_tokens` of `rows` rows of `width` cells: `work(begin, end)`.
template <class Work>
static inline void for_bands(int threads, int rows, int width, int band_tokens, const Work& work) {
  int band = (band_tokens + width - 1) / width, share = (rows + threads - 1) / threads;
  if (band > share) band = share;
  const int bands = (rows + band - 1) / band;
  for_parts(threads, bands, [&](int i) { work(i * band, (i + 1) * band < rows ? (i + 1) * band : rows); });
}
