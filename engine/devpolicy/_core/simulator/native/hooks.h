// What torch's C++ code asks of a type of device: whether it is there, its generators, its pinned memory.
//
// Owns the hooks of the simulated types. Torch looks for them once, when something first asks (often while it is being
// imported), and keeps what it found: its own "not built" object. Ours take the place of those objects, so it does not
// matter whether they were asked.
#pragma once

#include "allocator.h"
#include "generator.h"
#include "guard.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <ATen/detail/XPUHooksInterface.h>

#include <new>
#include <typeinfo>

namespace devpolicy {

inline bool is_accelerator(int kind) {
  const auto world = state().world.load();
  return world != nullptr && world->accelerator == kind;
}

// What all three answer alike.
template <int kind, class Interface>
struct Hooks : Interface {
  bool isBuilt() const override { return is_accelerator(kind); }
  bool isAvailable() const override { return device_count(kind) > 0; }
  bool hasPrimaryContext(DeviceIndex index) const override { return index < device_count(kind); }
  void init() const override {}
  DeviceIndex deviceCount() const override { return static_cast<DeviceIndex>(device_count(kind)); }
  void setCurrentDevice(DeviceIndex index) const override { set_current(kind, index); }
  DeviceIndex getCurrentDevice() const override { return current_index(kind); }
  DeviceIndex exchangeDevice(DeviceIndex index) const override {
    const auto before = current_index(kind);
    set_current(kind, index);
    return before;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override { return exchangeDevice(index); }
  c10::Device getDeviceFromPtr(void*) const override { return {kTypes[kind], current_index(kind)}; }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override { return default_generator(kind, index); }
  at::Generator getNewGenerator(DeviceIndex index) const override { return make_generator(kind, index); }
  bool isPinnedPtr(const void* data) const override { return PinnedAllocator::one().holds(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &PinnedAllocator::one(); }
};

// No cuDNN, cuBLASLt or cuSOLVER: torch then takes the kernels that a CPU has too.
struct CudaHooks final : Hooks<kCuda, at::CUDAHooksInterface> {
  bool hasCUDA() const override { return isBuilt(); }
  int getNumGPUs() const override { return device_count(kCuda); }
  DeviceIndex current_device() const override { return current_index(kCuda); }
  void deviceSynchronize(DeviceIndex) const override {}
  c10::Allocator* getCUDADeviceAllocator() const override { return allocator_of(kCuda); }
  std::string showConfig() const override {
    const auto world = state().world.load();
    return world ? world->config : "";
  }
  // No plan is made, so the cache is always empty.
  int64_t cuFFTGetPlanCacheMaxSize(DeviceIndex index) const override { return plan_limit(index); }
  void cuFFTSetPlanCacheMaxSize(DeviceIndex index, int64_t size) const override { plan_limit(index) = size; }
  int64_t cuFFTGetPlanCacheSize(DeviceIndex) const override { return 0; }
  void cuFFTClearPlanCache(DeviceIndex) const override {}

 private:
  static int64_t& plan_limit(DeviceIndex index) {
    constexpr int64_t kDefault = 4096;
    static std::array<int64_t, kMostDevices> limits;
    static uint64_t epoch = 0;
    if (epoch != state().epoch.load()) {
      limits.fill(kDefault);
      epoch = state().epoch.load();
    }
    return limits.at(index < 0 ? current_index(kCuda) : index);
  }
};

struct XpuHooks final : Hooks<kXpu, at::XPUHooksInterface> {
  bool hasXPU() const override { return isBuilt(); }
  DeviceIndex getNumGPUs() const override { return static_cast<DeviceIndex>(device_count(kXpu)); }
  DeviceIndex current_device() const override { return current_index(kXpu); }
  void deviceSynchronize(DeviceIndex) const override {}
};

// Events of mps have numbers and not objects.
struct MpsEvents {
  std::mutex lock;
  uint32_t next = 1;
  std::map<uint32_t, Moment> moments;
  static MpsEvents& one() {
    static auto* events = new MpsEvents();
    return *events;
  }
};

// On a host without Metal, and when no host is simulated any more, torch's own object answers: mostly by an error.
struct MpsHooks final : Hooks<kMps, at::MPSHooksInterface> {
  using Own = at::MPSHooksInterface;
  bool hasMPS() const override { return isBuilt(); }
  bool isOnMacOSorNewer(unsigned major, unsigned minor) const override {
    return isBuilt() || Own::isOnMacOSorNewer(major, minor);
  }
  c10::Allocator* getMPSDeviceAllocator() const override { return allocator_of(kMps); }
  void deviceSynchronize() const override {
    if (!isBuilt()) Own::deviceSynchronize();
  }
  void commitStream() const override {
    if (!isBuilt()) Own::commitStream();
  }
  void emptyCache() const override {
    if (!isBuilt()) Own::emptyCache();
  }
  size_t getCurrentAllocatedMemory() const override {
    return isBuilt() ? figures().used : Own::getCurrentAllocatedMemory();
  }
  size_t getDriverAllocatedMemory() const override {
    return isBuilt() ? figures().used : Own::getDriverAllocatedMemory();
  }
  size_t getRecommendedMaxMemory() const override {
    return isBuilt() ? figures().total : Own::getRecommendedMaxMemory();
  }
  size_t getMaxBufferLength() const override { return isBuilt() ? figures().total : Own::getMaxBufferLength(); }
  uint32_t acquireEvent(bool enable_timing) const override {
    if (!isBuilt()) return Own::acquireEvent(enable_timing);
    auto& events = MpsEvents::one();
    std::lock_guard<std::mutex> hold(events.lock);
    events.moments[events.next] = {};
    return events.next++;
  }
  void releaseEvent(uint32_t id) const override {
    auto& events = MpsEvents::one();
    std::lock_guard<std::mutex> hold(events.lock);
    events.moments.erase(id);
  }
  void recordEvent(uint32_t id) const override {
    auto& events = MpsEvents::one();
    std::lock_guard<std::mutex> hold(events.lock);
    events.moments[id] = std::chrono::steady_clock::now();
  }
  void waitForEvent(uint32_t) const override {}
  void synchronizeEvent(uint32_t) const override {}
  bool queryEvent(uint32_t) const override { return true; }
  double elapsedTimeOfEvents(uint32_t from, uint32_t to) const override {
    auto& events = MpsEvents::one();
    std::lock_guard<std::mutex> hold(events.lock);
    return std::chrono::duration<double, std::milli>(events.moments[to] - events.moments[from]).count();
  }

 private:
  static Figures figures() { return ledger_of(*open_world(kMps), kMps, 0)->figures(); }
};

// Put `Ours` where torch keeps its own. Both have no data, so what changes is what the object's virtual calls reach.
template <class Ours, class Interface>
void take_place_of(const Interface& asked) {
  static_assert(sizeof(Ours) == sizeof(Interface), "hooks with data cannot take another's place");
  TORCH_CHECK(typeid(asked) == typeid(Interface), "torch's ", typeid(Interface).name(),
              " are those of a real backend");
  new (const_cast<Interface*>(&asked)) Ours();
}

inline void install_hooks() {
  take_place_of<CudaHooks>(at::detail::getCUDAHooks());
  take_place_of<MpsHooks>(at::detail::getMPSHooks());
  take_place_of<XpuHooks>(at::detail::getXPUHooks());
}

}  // namespace devpolicy
