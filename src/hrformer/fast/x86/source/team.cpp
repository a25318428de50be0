// See team.h. A team's caller takes parts itself, as do its helpers, and waits for no helper that has not begun a part:
// where another process has the cores, the caller does it all. A thread that waits looks for a while whether it still
// must, and then sleeps: its core is another's.

#include "team.h"

#include <limits.h>
#include <linux/futex.h>
#include <omp.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include <atomic>

#include "crowd.h"

// How long a thread looks, in cycles of the time stamp counter: a millisecond or two, as long as the parts of a kernel
// may differ; beside other processes some microseconds, since the thread waited for may have no core.
static const uint64_t ALONE_CYCLES = 1 << 22, CROWDED_CYCLES = 1 << 14;

struct Team {
  // Next part to take (low half) and their number (high half): who moves the first forward owns that part.
  alignas(64) std::atomic<uint64_t> open{0};
  // Parts that are done; the caller sleeps on it.
  alignas(64) std::atomic<uint32_t> done{0};
  std::atomic<bool> caller_sleeps{false};
  // Counts calls; helpers sleep on it.
  alignas(64) std::atomic<uint32_t> news{0};
  std::atomic<int> sleepers{0};
  std::atomic<bool> ended{false};
  // Written between calls, read by owners of parts only.
  void (*task)(const void*, int) = nullptr;
  const void* work = nullptr;
  uint64_t cycles;
};

static void sleep_while(std::atomic<uint32_t>& value, uint32_t seen) {
  syscall(SYS_futex, (uint32_t*)&value, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}

static void wake(std::atomic<uint32_t>& value, int threads) {
  syscall(SYS_futex, (uint32_t*)&value, FUTEX_WAKE_PRIVATE, threads, nullptr, nullptr, 0);
}

// Looks whether `ready()`, for as long as the team does.
template <class Ready> static bool look(const Team& team, Ready ready) {
  const uint64_t start = __rdtsc();
  do {
    if (ready()) return true;
    _mm_pause();
  } while (__rdtsc() - start < team.cycles);
  return ready();
}

// Takes parts until none is left; the last of all threads to finish wakes the caller.
static void take_parts(Team& team) {
  uint32_t taken = 0;
  uint64_t open = team.open.load();
  while ((uint32_t)open < open >> 32) {
    if (!team.open.compare_exchange_weak(open, open + 1)) continue;
    team.task(team.work, (int)(uint32_t)open);
    taken++;
    open = team.open.load();
  }
  // `open` cannot belong to another call: this one is not over before its parts are counted.
  if (taken && team.done.fetch_add(taken) + taken == open >> 32 && team.caller_sleeps.load()) wake(team.done, 1);
}

static void help(Team& team) {
  auto has_news = [&] {
    const uint64_t open = team.open.load();
    return (uint32_t)open < open >> 32 || team.ended.load();
  };
  while (!team.ended.load()) {
    if (look(team, has_news)) {
      take_parts(team);
    } else {
      team.sleepers.fetch_add(1);
      const uint32_t news = team.news.load();
      if (!has_news()) sleep_while(team.news, news);
      team.sleepers.fetch_sub(1);
    }
  }
}

static void announce(Team& team, int threads) {
  team.news.fetch_add(1);
  if (team.sleepers.load()) wake(team.news, threads);
}

static void share(Team& team, int threads, int parts, void (*task)(const void*, int), const void* work) {
  team.task = task;
  team.work = work;
  team.done.store(0);
  team.open.store((uint64_t)parts << 32);
  announce(team, threads - 1);
  take_parts(team);
  auto finished = [&] { return team.done.load() == (uint32_t)parts; };
  while (!look(team, finished)) {
    team.caller_sleeps.store(true);
    const uint32_t done = team.done.load();
    if (done != (uint32_t)parts) sleep_while(team.done, done);
    team.caller_sleeps.store(false);
  }
}

static thread_local Team* own = nullptr;  // of a caller inside `with_team`

// A team for this call alone. Where there is a part for every thread, each takes the one of its number first: the pass
// before has left the part's maps in its core's cache.
static void run_once(int threads, int parts, void (*task)(const void*, int), const void* work) {
  std::atomic<int> next{0};
  std::atomic<bool> taken[threads];
  for (std::atomic<bool>& one : taken) one.store(false);
#pragma omp parallel num_threads(threads)
  if (parts > threads) {
    for (int part; (part = next.fetch_add(1)) < parts;) task(work, part);
  } else {
    const int first = omp_get_thread_num();
    for (int i = 0; i < parts; i++) {
      const int part = (first + i) % parts;
      if (!taken[part].exchange(true)) task(work, part);
    }
  }
}

void run_parts(int threads, int parts, void (*task)(const void*, int), const void* work) {
  if (threads > parts) threads = parts;
  if (threads <= 1) {
    for (int part = 0; part < parts; part++) task(work, part);
  } else if (own) {
    share(*own, threads, parts, task, work);
  } else {
    is_crowded(threads);
    run_once(threads, parts, task, work);
  }
}

void with_team(int threads, void (*body)(const void*), const void* data) {
  if (threads <= 1 || own) return body(data);
  Team team;
  team.cycles = is_crowded(threads) ? CROWDED_CYCLES : ALONE_CYCLES;
#pragma omp parallel num_threads(threads)
  if (omp_get_thread_num()) {
    help(team);
  } else {
    own = &team;
    body(data);
    own = nullptr;
    team.ended.store(true);
    announce(team, INT_MAX);
  }
}
