// Python's side of the simulated devices: put them in place, open and close a host, read and change its ledgers.
//
// The parts, one concern each: ledger.h, allocator.h, guard.h, generator.h, hooks.h, tensors.h, rules.h, fallback.h,
// attention.h, layouts.h, recurrent.h, kernels.h.
// They are headers of one translation unit, since torch's own headers are most of what a compiler has to read.

#include "hooks.h"
#include "kernels.h"

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/utils/device_lazy_init.h>
#include <torch/csrc/utils/pybind.h>

namespace devpolicy {

// Lets the engine start its threads again: it did so at the first `backward` of the process, and if that was before
// the backend was loaded, there are none for devices.
struct Engine : torch::autograd::Engine {
  static void start_threads_for_devices() {
    auto& engine = torch::autograd::Engine::get_default_engine();
    // The usual way first, so that torch does not do it once more later.
    engine.initialize_device_threads_pool();
    if ((engine.*(&Engine::device_ready_queues_)).size() < kMostDevices) (engine.*(&Engine::start_device_threads))();
  }
};

// Put everything in place, once for the process. What is closed answers as before: counts are 0.
static void load() {
  static bool loaded = false;
  if (loaded) return;
  install_hooks();
  for (int kind = 0; kind < kKinds; ++kind) {
    c10::SetAllocator(kTypes[kind], allocator_of(kind), /*priority=*/10);
    c10::impl::registerDeviceGuard(kTypes[kind], new Guard(kind));
  }
  register_all_kernels();
  state().counts[kCuda] = kMostDevices;
  {
    pybind11::gil_scoped_release other_threads_start;
    Engine::start_threads_for_devices();
  }
  state().counts[kCuda] = 0;
  loaded = true;
}

static void open_host(const std::vector<std::tuple<int, int, int64_t, int64_t, std::string, int>>& devices, bool phantom,
                      int accelerator, const std::string& config) {
  auto world = std::make_shared<World>();
  world->phantom = phantom;
  world->accelerator = accelerator;
  world->config = config;
  for (const auto& [kind, index, total, capacity, fault, capability] : devices) {
    auto& row = world->devices[kind];
    TORCH_CHECK(index == static_cast<int>(row.size()) && index < kMostDevices, "devices are given in order");
    row.push_back(std::make_shared<Ledger>(kind, index, total, capacity, fault, capability));
  }
  TORCH_CHECK(state().world.load() == nullptr, "a host is open already");
  for (int kind = 0; kind < kKinds; ++kind) state().counts[kind] = static_cast<int>(world->devices[kind].size());
  ++state().epoch;
  state().sync_debug = 0;
  state().world.store(std::move(world));
}

static void close_host() {
  for (auto& count : state().counts) count = 0;
  state().world.store(nullptr);
  // torch asks Python once whether a type can be used, and keeps a yes: ask again.
  for (const auto type : {DeviceType::CUDA, DeviceType::XPU}) torch::utils::set_requires_device_init(type, true);
}

static std::shared_ptr<Ledger> ledger(int kind, int index) { return ledger_of(*open_world(kind), kind, index); }

static pybind11::dict figures_of(int kind, int index) {
  const auto found = ledger(kind, index)->figures();
  pybind11::dict told;
  told["total"] = found.total;
  told["capacity"] = found.capacity;
  told["allocated"] = found.used;
  told["peak"] = found.peak;
  told["allocations"] = found.allocations;
  told["frees"] = found.frees;
  told["failures"] = found.failures;
  told["allocated_ever"] = found.allocated_ever;
  told["freed_ever"] = found.freed_ever;
  told["operations"] = found.operations;
  told["received"] = found.received;
  told["sent"] = found.sent;
  return told;
}

}  // namespace devpolicy

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using namespace devpolicy;
  m.attr("MOST_DEVICES") = kMostDevices;
  m.def("load", [] { load(); });
  m.def("open", &open_host);
  m.def("close", &close_host);
  m.def("is_open", [] { return state().world.load() != nullptr; });
  m.def("figures", &figures_of);
  m.def("current", [](int kind) { return static_cast<int>(current_index(kind)); });
  m.def("set_current", [](int kind, int index) { set_current(kind, static_cast<DeviceIndex>(index)); });
  m.def("reset_peak", [](int kind, int index) { ledger(kind, index)->reset_peak(); });
  m.def("set_capacity", [](int kind, int index, int64_t bytes) { ledger(kind, index)->set_capacity(bytes); });
  m.def("allow", [](int kind, int index, int64_t bytes) { ledger(kind, index)->allow(bytes < 0 ? kNever : bytes); });
  m.def("synchronize", [](int kind, int index) { ledger(kind, index)->synchronize(); });
  m.def("sync_debug", [] { return state().sync_debug.load(); });
  m.def("set_sync_debug", [](int mode) { state().sync_debug = mode; });
  m.def("resize_storage", &resize_storage);
  m.def("why_not", [](int backend, const Tensor& query, const Tensor& key, const Tensor& value,
                      const std::optional<Tensor>& mask) {
    return why_not({query, key, value, mask}, static_cast<at::SDPBackend>(backend));
  });
  m.def("refuse_from", [](int kind, int index, int64_t bytes) { ledger(kind, index)->refuse_from(bytes < 0 ? kNever : bytes); });
  m.def("fail_after", [](int kind, int index, int64_t count, const std::string& why) {
    ledger(kind, index)->fail_after(count < 0 ? kNever : count, why);
  });
  m.def("default_generator", [](int kind, int index) {
    return default_generator(kind, static_cast<DeviceIndex>(index));
  });
  m.def("current_stream", [](int kind, int index) {
    return current_stream(kind, static_cast<DeviceIndex>(index < 0 ? current_index(kind) : index));
  });
  m.def("set_stream", [](int kind, int index, int64_t id) {
    set_current(kind, static_cast<DeviceIndex>(index));
    current_stream(kind, static_cast<DeviceIndex>(index)) = id;
  });
}
