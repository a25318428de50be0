// Threads that share the numbered parts of a kernel's work. They are those of torch's OpenMP.

#pragma once

// Calls `task(work, part)` for every part from 0 to `parts`, by at most `threads` threads, and returns when all are done.
// Which thread does which part is not fixed: results must not depend on it.
void run_parts(int threads, int parts, void (*task)(const void* work, int part), const void* work);

// The same for a function object of one argument, the part.
template <class Work> static inline void for_parts(int threads, int parts, const Work& work) {
  run_parts(threads, parts, [](const void* w, int part) { (*(const Work*)w)(part); }, &work);
}

// The same for `count` small things, a run of them in a part: `work(first, last)`.
template <class Work> static inline void for_runs(int threads, int count, const Work& work) {
  const int wanted = 4 * threads, parts = wanted < count ? wanted : count;
  for_parts(threads, parts, [&](int part) {
    work((int)((long)count * part / parts), (int)((long)count * (part + 1) / parts));
  });
}

// Runs `body(data)`, whose calls of the functions above share one team of threads: it meets once, at the end.
void with_team(int threads, void (*body)(const void* data), const void* data);
