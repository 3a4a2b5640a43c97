// Which device is current, and streams and events that have nothing to wait for.
//
// Owns torch's `DeviceGuardImpl` of the simulated types. Every operation is done when it returns, so a stream is a
// name and an event is the moment at which it was recorded.
#pragma once

#include "ledger.h"

#include <c10/core/Stream.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <chrono>
#include <map>

namespace devpolicy {

inline void set_current(int kind, DeviceIndex index) {
  const auto world = state().world.load();
  // Where no host is open torch takes down what it made on one, where nothing may be raised.
  if (index < 0 || world == nullptr) return;
  TORCH_CHECK(index < device_count(kind), no_such_device(kind, index));
  ledger_of(*world, kind, index)->require_working();
  current_index(kind) = index;
}

inline c10::StreamId& current_stream(int kind, DeviceIndex index) {
  struct Current { uint64_t epoch = 0; std::map<std::pair<int, DeviceIndex>, c10::StreamId> ids; };
  static thread_local Current current;
  const auto epoch = state().epoch.load(std::memory_order_relaxed);
  if (current.epoch != epoch) current = Current{epoch, {}};
  return current.ids[{kind, index}];  // 0 is the default stream
}

using Moment = std::chrono::steady_clock::time_point;

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  explicit Guard(int kind) : kind_(kind) {}

  DeviceType type() const override { return kTypes[kind_]; }
  c10::Device getDevice() const override { return {kTypes[kind_], current_index(kind_)}; }
  void setDevice(c10::Device device) const override { set_current(kind_, device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0) current_index(kind_) = device.index();
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const auto before = getDevice();
    setDevice(device);
    return before;
  }
  DeviceIndex deviceCount() const noexcept override { return static_cast<DeviceIndex>(device_count(kind_)); }

  c10::Stream getStream(c10::Device device) const override {
    const auto index = device.index() < 0 ? current_index(kind_) : device.index();
    return c10::Stream(c10::Stream::UNSAFE, {kTypes[kind_], index}, current_stream(kind_, index));
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, indexed(device)); }
  c10::Stream getNewStream(c10::Device device, int) const override {
    static std::atomic<c10::StreamId> next{1};
    return c10::Stream(c10::Stream::UNSAFE, indexed(device), next++);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getNewStream(device, 0); }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const auto before = getStream(stream.device());
    current_stream(kind_, stream.device_index()) = stream.id();
    return before;
  }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream& stream) const override { synchronizeDevice(stream.device_index()); }
  void synchronizeDevice(const DeviceIndex index) const override {
    if (const auto world = state().world.load()) ledger_of(*world, kind_, index < 0 ? current_index(kind_) : index)->synchronize();
  }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}

  void record(void** event, const c10::Stream&, const DeviceIndex, const c10::EventFlag) const override {
    if (*event == nullptr) *event = new Moment();
    *static_cast<Moment*>(*event) = std::chrono::steady_clock::now();
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void destroyEvent(void* event, const DeviceIndex) const noexcept override { delete static_cast<Moment*>(event); }
  // Milliseconds that the CPU took: a real figure, and none of a GPU.
  double elapsedTime(void* from, void* to, const DeviceIndex) const override {
    TORCH_CHECK(from != nullptr && to != nullptr, "Both events must be recorded before calculating elapsed time.");
    const auto taken = *static_cast<Moment*>(to) - *static_cast<Moment*>(from);
    return std::chrono::duration<double, std::milli>(taken).count();
  }

 private:
  c10::Device indexed(c10::Device device) const { return device.has_index() ? device : getDevice(); }

  const int kind_;
};

}  // namespace devpolicy
