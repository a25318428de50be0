// See crowd.h.
//
// A thread of libgomp that waits looks 300,000 times before it sleeps: milliseconds in which it keeps a core, perhaps
// from the thread it waits for. Where two processes share cores, each waited for the other's turns, at every barrier:
// 50 times as long as alone. It looks 100 times where libgomp's threads outnumber the cores (libgomp/env.c and
// config/linux/wait.h), so that in a crowd one more team is kept, which does nothing but be counted. Alone there is none:
// sleeping and waking cost a sixth of a training step.

#include "crowd.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

// Share of the time in which the calling thread could run and had no core: a hundredth alone, a half beside a process
// that wants all cores.
static const double CROWDED = 0.2;
// Seconds between two looks, and for how long the share has to be lower before there is no crowd.
static const double EVERY = 0.1, QUIET = 1;

static double seconds_now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

// libgomp's, or null where another OpenMP runs, or the user has said how its threads wait.
static Parallel libgomp() {
  Dl_info from;
  void* found = dlsym(RTLD_DEFAULT, "GOMP_parallel");
  if (!found || !dladdr(found, &from) || !strstr(from.dli_fname, "libgomp")) return nullptr;
  return getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY") ? nullptr : (Parallel)found;
}

// The team that is only counted: its first thread starts it, sleeps, and ends it with itself.
struct IdleTeam {
  const Parallel parallel = libgomp();
  unsigned threads = 0;
  bool there = false;
  sem_t end;
  IdleTeam() { sem_init(&end, 0, 0); }
};

static void* start_and_sleep(void* argument) {
  IdleTeam& idle = *(IdleTeam*)argument;
  idle.parallel([](void*) {}, nullptr, idle.threads, 0);
  while (sem_wait(&idle.end)) {}
  return nullptr;
}

// Called by one thread at a time. `threads`: of a kernel, so many are libgomp's already.
static void keep_idle_team(bool wanted, int threads) {
  static IdleTeam& idle = *new IdleTeam;  // never destroyed: its thread may outlive static objects
  if (!idle.parallel || wanted == idle.there) return;
  idle.there = wanted;
  if (!wanted) {
    sem_post(&idle.end);
    return;
  }
  cpu_set_t allowed;
  const int cores = sched_getaffinity(0, sizeof allowed, &allowed) ? threads : CPU_COUNT(&allowed);
  idle.threads = cores - (threads < cores ? threads : cores) + 2;
  sigset_t all, before;  // signals are for the program's own threads
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  if (!pthread_create(&thread, nullptr, start_and_sleep, &idle)) pthread_detach(thread);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

static std::atomic<bool> crowded{false};

// Seconds in which the calling thread waited for a core so far; 0 where Linux does not count them.
static double waited() {
  char text[64] = {};
  const int file = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  const bool there = read(file, text, sizeof text - 1) > 0;
  close(file);
  const char* second = there ? strchr(text, ' ') : nullptr;
  return second ? 1e-9 * strtod(second, nullptr) : 0;
}

bool is_crowded(int threads) {
  static thread_local double since = 0, before = 0;
  static std::atomic<double> last_crowd{-QUIET};
  static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
  const double now = seconds_now();
  if (now - since >= EVERY) {
    const double wait = waited(), share = (wait - before) / (now - since);
    const bool recent = now - since < QUIET;  // what happened long ago says nothing
    since = now;
    before = wait;
    if (recent && share > CROWDED) last_crowd.store(now);
    crowded.store(now - last_crowd.load() < QUIET);
    if (!pthread_mutex_trylock(&one)) {
      keep_idle_team(crowded.load(), threads);
      pthread_mutex_unlock(&one);
    }
  }
  return crowded.load();
}
