// Random numbers of simulated devices: each device has a stream of its own, which gives the CPU's numbers.
//
// Owns the generators. That they are unwrapped where a kernel runs is the fallback's concern.
#pragma once

#include "ledger.h"

#include <ATen/CPUGeneratorImpl.h>

namespace devpolicy {

// A generator on a simulated device. It wraps one of the CPU, since kernels of the CPU draw the numbers.
class Generator final : public c10::GeneratorImpl {
 public:
  Generator(c10::Device device, at::Generator inner)
      : GeneratorImpl(device, c10::DispatchKeySet(kKeys[kind_of(device.type())])), inner_(std::move(inner)) {}

  const at::Generator& inner() const { return inner_; }

  void set_current_seed(uint64_t seed) override { inner_.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { inner_.set_offset(offset); }
  uint64_t get_offset() const override { return inner_.get_offset(); }
  uint64_t current_seed() const override { return inner_.current_seed(); }
  uint64_t seed() override { return inner_.seed(); }
  void set_state(const c10::TensorImpl& state) override { inner_.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return inner_.unsafeGetGeneratorImpl()->get_state();
  }

 private:
  Generator* clone_impl() const override {
    auto inner = inner_;
    return new Generator(device(), inner.clone());
  }

  mutable at::Generator inner_;
};

inline at::Generator make_generator(int kind, DeviceIndex index) {
  const c10::Device device(kTypes[kind], index < 0 ? current_index(kind) : index);
  return at::make_generator<Generator>(device, at::detail::createCPUGenerator());
}

// The default generators, a new one for each device of each world.
struct Defaults {
  std::mutex lock;
  uint64_t epoch = 0;
  std::array<std::array<at::Generator, kMostDevices>, kKinds> all;
};

inline const at::Generator& default_generator(int kind, DeviceIndex index) {
  static auto* defaults = new Defaults();
  const auto place = index < 0 ? current_index(kind) : index;
  TORCH_CHECK(place < device_count(kind), no_such_device(kind, place));
  std::lock_guard<std::mutex> hold(defaults->lock);
  const auto epoch = state().epoch.load();
  if (defaults->epoch != epoch) {
    for (auto& row : defaults->all) row.fill(at::Generator());
    defaults->epoch = epoch;
  }
  auto& one = defaults->all[kind][place];
  if (!one.defined()) one = make_generator(kind, place);
  return one;
}

// The CPU's generator behind a simulated one; others as they are.
inline at::Generator unwrapped(const at::Generator& given) {
  if (!given.defined() || kind_of(given.device().type()) < 0) return given;
  return static_cast<Generator*>(given.unsafeGetGeneratorImpl())->inner();
}

// Lets a kernel that takes no generator draw from a device's own numbers.
class DrawFrom {
 public:
  explicit DrawFrom(at::Generator of) : of_(std::move(of)) { exchange(); }
  ~DrawFrom() { exchange(); }

 private:
  void exchange() {
    auto cpu = at::detail::getDefaultCPUGenerator();
    auto* one = cpu.get<at::CPUGeneratorImpl>();
    auto* other = of_.get<at::CPUGeneratorImpl>();
    auto engine = one->engine();
    one->set_engine(other->engine());
    other->set_engine(engine);
    auto single = one->next_float_normal_sample();
    one->set_next_float_normal_sample(other->next_float_normal_sample());
    other->set_next_float_normal_sample(single);
    auto twice = one->next_double_normal_sample();
    one->set_next_double_normal_sample(other->next_double_normal_sample());
    other->set_next_double_normal_sample(twice);
  }

  at::Generator of_;
};

}  // namespace devpolicy
