// The autograd engine's threads of simulated devices: enough of them, and none that is in the way when a process ends.
//
// Owns what is done to torch's engine. It knows no tensor.
#pragma once

#include "ledger.h"

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/input_buffer.h>

#include <chrono>
#include <thread>

namespace devpolicy {

// Members of torch's queue of tasks, whose own functions its library does not export, and of its engine. Access is not
// checked where a template is instantiated by name.
struct HeapOf { friend constexpr auto member(HeapOf); };
struct LockOf { friend constexpr auto member(LockOf); };
struct SignalOf { friend constexpr auto member(SignalOf); };
struct ThreadsOf { friend constexpr auto member(ThreadsOf); };
template <class Of, auto pointer> struct Reach { friend constexpr auto member(Of) { return pointer; } };
template struct Reach<HeapOf, &torch::autograd::ReadyQueue::heap_>;
template struct Reach<LockOf, &torch::autograd::ReadyQueue::mutex_>;
template struct Reach<SignalOf, &torch::autograd::ReadyQueue::not_empty_>;
template struct Reach<ThreadsOf, &torch::autograd::Engine::non_reentrant_device_thread_count_>;

// A queue that an idle thread waits at.
class Queue {
 public:
  explicit Queue(torch::autograd::ReadyQueue& queue) : queue_(queue) {}

  // Let the thread take a task that does nothing, and return when it has.
  void pass() {
    while (!push_if_empty()) wait();
    while (!empty()) wait();
  }

 private:
  static void wait() { std::this_thread::sleep_for(std::chrono::microseconds(100)); }

  bool empty() {
    std::lock_guard<std::mutex> hold(queue_.*member(LockOf{}));
    return (queue_.*member(HeapOf{})).empty();
  }

  // Into an empty heap, so that nothing has to be compared.
  bool push_if_empty() {
    std::lock_guard<std::mutex> hold(queue_.*member(LockOf{}));
    auto& heap = queue_.*member(HeapOf{});
    if (!heap.empty()) return false;
    struct Open : std::remove_reference_t<decltype(heap)> {
      static auto& container(std::remove_reference_t<decltype(heap)>& of) { return of.*(&Open::c); }
    };
    Open::container(heap).emplace_back(std::weak_ptr<torch::autograd::GraphTask>(),
                                       c10::intrusive_ptr<torch::autograd::Node>(), torch::autograd::InputBuffer(0));
    (queue_.*member(SignalOf{})).notify_one();
    return true;
  }

  torch::autograd::ReadyQueue& queue_;
};

struct Engine : torch::autograd::Engine {
  // The engine makes a thread for each ordinal at the first `backward` of the process. If that was before a host was
  // simulated, or on one with fewer devices, it has to make them again; those that it had wait for ever.
  static void start() {
    auto& engine = torch::autograd::Engine::get_default_engine();
    size_t wanted = 0;
    for (int kind = 0; kind < kKinds; ++kind) wanted = std::max<size_t>(wanted, device_count(kind));
    if (wanted == 0) return;
    static std::mutex lock;
    std::lock_guard<std::mutex> hold(lock);
    // The usual way first, so that torch does not do it once more later. It refuses in a fork of a process with threads.
    engine.initialize_device_threads_pool();
    if ((engine.*(&Engine::device_ready_queues_)).size() >= wanted) return;
    // It waits until as many threads have begun as there are devices. Those of before are none of them: counted, they
    // would let it wait for ever.
    engine.*member(ThreadsOf{}) = 0;
    (engine.*(&Engine::start_device_threads))();
  }

  // Wait until each thread has let go of the last task that it ran. Whoever called `backward` goes on before that is
  // freed, which takes the GIL; a thread that wants the GIL while the interpreter is taken down aborts the process. A
  // thread takes nothing from its queue before it has freed what it had.
  static void settle() {
    for (auto& queue : torch::autograd::Engine::get_default_engine().*(&Engine::device_ready_queues_)) Queue(*queue).pass();
  }
};

// The process that settles is the one whose threads there are: a fork has none of them.
inline std::atomic<pid_t>& engine_of() {
  static std::atomic<pid_t> process{0};
  return process;
}

inline void start_engine() {
  Engine::start();
  engine_of() = getpid();
}

inline void settle_engine() {
  if (engine_of() == getpid()) Engine::settle();
}

}  // namespace devpolicy
