// Python's side of the simulated devices: put them in place, open and close a host, read and change its ledgers.
//
// The parts, one concern each: ledger.h, shared.h, allocator.h, guard.h, generator.h, hooks.h, tensors.h,
// rules.h, fallback.h, attention.h, layouts.h, recurrent.h, kernels.h, engine.h, distributed.h.
// They are headers of one translation unit, since torch's own headers are most of what a compiler has to read.

#include "distributed.h"
#include "engine.h"
#include "hooks.h"
#include "kernels.h"

#include <torch/csrc/utils/device_lazy_init.h>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/chrono.h>

namespace devpolicy {

// Put everything in place, once for the process. What is closed answers as before: counts are 0.
static void load() {
  static bool loaded = false;
  if (loaded) return;
  install_hooks();
  for (int kind = 0; kind < kKinds; ++kind) c10::SetAllocator(kTypes[kind], allocator_of(kind), /*priority=*/10);
  register_all_kernels();
  register_timers();
  loaded = true;
}

// Make a world the one that torch sees.
static void resume(std::shared_ptr<World> world) {
  static const std::array<Guard*, kKinds> guards{new Guard(kCuda), new Guard(kMps), new Guard(kXpu)};
  TORCH_CHECK(state().world.load() == nullptr, "a host is open already");
  // Each time, since fake tensors on a machine without CUDA put a guard in the place of one that counts no devices.
  for (int kind = 0; kind < kKinds; ++kind) c10::impl::registerDeviceGuard(kTypes[kind], guards[kind]);
  for (int kind = 0; kind < kKinds; ++kind) state().counts[kind] = static_cast<int>(world->devices[kind].size());
  state().epoch = world->epoch;
  state().sync_debug = 0;
  state().world.store(std::move(world));
}

// Take the open world away, and return it: nothing of it is lost while it waits.
static std::shared_ptr<World> suspend() {
  auto world = state().world.load();
  for (auto& count : state().counts) count = 0;
  state().world.store(nullptr);
  // torch asks Python once whether a type can be used, and keeps a yes: ask again.
  for (const auto type : {DeviceType::CUDA, DeviceType::XPU}) torch::utils::set_requires_device_init(type, true);
  return world;
}

static void close_host() {
  if (const auto world = suspend()) forget_generators(world->epoch);
}

static void open_host(const std::vector<std::tuple<int, int, int64_t, int64_t, std::string, int>>& devices, bool phantom,
                      int accelerator, const std::string& config, const std::string& shared_file) {
  auto world = std::make_shared<World>();
  std::shared_ptr<Shared> shared;
  if (!shared_file.empty()) {
    shared = Shared::open(shared_file);
    TORCH_CHECK(shared != nullptr, "the file that processes share cannot be opened: ", shared_file);
  }
  world->phantom = phantom;
  world->accelerator = accelerator;
  world->config = config;
  for (const auto& [kind, index, total, capacity, fault, capability] : devices) {
    auto& row = world->devices[kind];
    TORCH_CHECK(index == static_cast<int>(row.size()) && index < kMostDevices, "devices are given in order");
    row.push_back(std::make_shared<Ledger>(kind, index, total, capacity, fault, capability, shared));
  }
  static std::atomic<uint64_t> last{0};
  world->epoch = ++last;
  resume(std::move(world));
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
  told["others"] = found.others;
  told["operations_of_all"] = found.operations_of_all;
  return told;
}

}  // namespace devpolicy

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using namespace devpolicy;
  m.attr("MOST_DEVICES") = kMostDevices;
  m.def("load", [] { load(); });
  m.def("open", &open_host);
  m.def("close", &close_host);
  pybind11::class_<World, std::shared_ptr<World>>(m, "World");
  // torch's own classes are registered when this is imported.
  pybind11::module_::import("torch._C._distributed_c10d");
  pybind11::class_<GroupOnDevices, c10d::Backend, c10::intrusive_ptr<GroupOnDevices>>(m, "GroupOnDevices")
      .def(pybind11::init<GroupOnDevices::Inner, std::string>())
      .def(pybind11::init<int, int, c10::intrusive_ptr<c10d::Backend::Options>, GroupOnDevices::Connect, std::string>())
      .def_property_readonly("options", &GroupOnDevices::getBackendOptions)
      .def("_set_default_timeout", &GroupOnDevices::setTimeout)
      .def("_add_ephemeral_timeout", [](GroupOnDevices&, std::chrono::milliseconds) {})
      .def("_group_start", [](GroupOnDevices&) {})
      .def("_group_end", [](GroupOnDevices&) {})
      .def_property_readonly("uid", [](GroupOnDevices& group) { return group.getID(); });
  m.def("suspend", &suspend);
  m.def("resume", &resume);
  m.def("start_engine", &start_engine, pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("settle_engine", &settle_engine, pybind11::call_guard<pybind11::gil_scoped_release>());
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
