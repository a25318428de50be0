// The memory that threads keep.

#include <stdlib.h>
#include <sys/mman.h>

#include "vectors.h"

struct Buffer {
  float* floats = nullptr;
  size_t size = 0;
  ~Buffer() { free(floats); }
};

#ifdef __SANITIZE_ADDRESS__
// Exactly what is asked for, anew each time: what lies behind it, or was there before, is seen to be read.
static float* at_least(Buffer& buffer, size_t floats) {
  free(buffer.floats);
  if (posix_memalign((void**)&buffer.floats, 64, floats * sizeof(float))) abort();
  return buffer.floats;
}
#else
static float* at_least(Buffer& buffer, size_t floats) {
  if (floats > buffer.size) {
    free(buffer.floats);
    buffer.size = floats + floats / 8;
    // On large pages: a product reads rows that lie whole small pages apart.
    const size_t page = 1 << 21, bytes = (buffer.size * sizeof(float) + page - 1) / page * page;
    buffer.floats = (float*)aligned_alloc(page, bytes);
    if (!buffer.floats) abort();
    madvise(buffer.floats, bytes, MADV_HUGEPAGE);
  }
  return buffer.floats;
}
#endif

float* thread_buffer(size_t floats) {
  static thread_local Buffer buffer;
  return at_least(buffer, floats);
}

float* shared_buffer(size_t floats) {
  static thread_local Buffer buffer;
  return at_least(buffer, floats);
}

float* product_buffer(size_t floats) {
  static thread_local Buffer buffer;
  return at_least(buffer, floats);
}
