// Random numbers of simulated devices: each device has a stream of its own, which gives the CPU's numbers.
//
// Owns the generators. That they are unwrapped where a kernel runs is the fallback's concern.
#pragma once

#include "ledger.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/DistributionsHelper.h>
#include <ATen/ops/empty.h>

#include <cstring>

#include <map>

namespace devpolicy {

// A stream of the CPU's numbers with the state that a GPU's has: a seed, and how far it has been drawn from.
//
// The CPU's generator knows its state (5,056 bytes) and not how many numbers it has given. Every state is reached from
// the seed's by drawing, so the count is found, when it is asked for, by drawing in a copy until the two are equal.
class Numbers {
 public:
  explicit Numbers(at::Generator inner) : inner_(std::move(inner)) { begin(); }
  Numbers(const Numbers& other) : inner_(other.inner_.clone()), known_(other.known_), refills_(other.refills_) {}

  const at::Generator& inner() const { return inner_; }
  void begin() {
    known_ = at::mt19937(inner_.current_seed());
    refills_ = 0;
  }

  // The numbers drawn since the seed, and whether one of a pair of normal numbers is left. As in CUDA a multiple of 4.
  uint64_t offset() {
    auto* cpu = inner_.get<at::CPUGeneratorImpl>();
    const auto now = cpu->engine().data();
    const auto limit = refills_ + kMostRefills;
    while (known_.data().state_ != now.state_) {
      TORCH_CHECK(refills_ < limit, "the offset of a generator that drew more than 10^10 numbers is not simulated");
      refill();
    }
    const uint64_t drawn = refills_ == 0 ? 0 : (refills_ - 1) * kBlock + now.next_;
    return (drawn + (cpu->next_double_normal_sample() ? kHalf : 0)) * 4;
  }

  void move_to(uint64_t seed, uint64_t offset) {
    TORCH_CHECK(offset % 4 == 0, "offset must be a multiple of 4");
    inner_.set_current_seed(seed);
    begin();
    auto* cpu = inner_.get<at::CPUGeneratorImpl>();
    // Half of a pair is had by drawing the pair again, which takes four numbers; it is nearly always the last drawn.
    const uint64_t count = offset / 4 % kHalf;
    const bool half = offset / 4 >= kHalf && count >= kPair;
    const uint64_t drawn = count - (half ? kPair : 0);
    while (refills_ * kBlock < drawn) refill();
    if (refills_ > 0) {
      auto data = known_.data();
      data.next_ = static_cast<uint32_t>(drawn - (refills_ - 1) * kBlock);
      data.left_ = static_cast<int>(kBlock - data.next_ + 1);
      auto engine = known_;
      engine.set_data(data);
      cpu->set_engine(engine);
    }
    if (half) at::normal_distribution<double>(0, 1)(cpu);
  }

 private:
  static constexpr uint64_t kBlock = at::MERSENNE_STATE_N, kPair = 4, kHalf = uint64_t{1} << 58;
  static constexpr uint64_t kMostRefills = uint64_t{1} << 24;

  void refill() {
    auto data = known_.data();
    data.left_ = 1;  // none is left in the block, so the next draw makes a new one
    known_.set_data(data);
    known_();
    ++refills_;
  }

  at::Generator inner_;
  at::mt19937 known_;
  uint64_t refills_ = 0;
};

// A generator on a simulated device. It wraps one of the CPU, since kernels of the CPU draw the numbers.
class Generator final : public c10::GeneratorImpl {
 public:
  Generator(c10::Device device, std::shared_ptr<Numbers> numbers)
      : GeneratorImpl(device, c10::DispatchKeySet(kKeys[kind_of(device.type())])), numbers_(std::move(numbers)) {}

  const at::Generator& inner() const { return numbers_->inner(); }

  void set_current_seed(uint64_t seed) override {
    mutable_inner().set_current_seed(seed);
    numbers_->begin();
  }
  uint64_t current_seed() const override { return inner().current_seed(); }
  uint64_t seed() override {
    const auto made = mutable_inner().seed();
    numbers_->begin();
    return made;
  }
  void set_offset(uint64_t offset) override { numbers_->move_to(current_seed(), offset); }
  uint64_t get_offset() const override { return numbers_->offset(); }

  // CUDA's: 16 bytes, the seed and the offset. A state of 8 bytes has no offset.
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    const std::array<uint64_t, 2> words{current_seed(), numbers_->offset()};
    auto state = at::empty({kStateBytes}, at::TensorOptions().dtype(at::kByte).device(at::kCPU));
    std::memcpy(state.mutable_data_ptr(), words.data(), kStateBytes);
    return state.getIntrusivePtr();
  }
  void set_state(const c10::TensorImpl& state) override {
    TORCH_CHECK_TYPE(state.layout() == c10::kStrided && state.device_type() == DeviceType::CPU &&
                         state.dtype() == caffe2::TypeMeta::Make<uint8_t>(),
                     "RNG state must be a torch.ByteTensor");
    TORCH_CHECK(state.is_contiguous(), "RNG state must be contiguous");
    const auto size = state.numel();
    TORCH_CHECK(size == kStateBytes || size == kStateBytes / 2, "RNG state is wrong size");
    std::array<uint64_t, 2> words{};
    std::memcpy(words.data(), state.data(), static_cast<size_t>(size));
    numbers_->move_to(words[0], words[1]);
  }

  // Another name for the same stream, as graphs of CUDA keep it.
  c10::intrusive_ptr<c10::GeneratorImpl> graphsafe_get_state() const override {
    return c10::make_intrusive<Generator>(device(), numbers_);
  }
  void graphsafe_set_state(const c10::intrusive_ptr<c10::GeneratorImpl>& state) override {
    const auto* other = dynamic_cast<Generator*>(state.get());
    TORCH_CHECK(other != nullptr && other->device().type() == device().type(), "Expected a ", device().type(),
                " generator state");
    numbers_ = other->numbers_;
  }

 private:
  static constexpr int64_t kStateBytes = 16;

  at::Generator mutable_inner() const { return inner(); }
  Generator* clone_impl() const override { return new Generator(device(), std::make_shared<Numbers>(*numbers_)); }

  std::shared_ptr<Numbers> numbers_;
};

inline at::Generator make_generator(int kind, DeviceIndex index) {
  const c10::Device device(kTypes[kind], index < 0 ? current_index(kind) : index);
  return at::make_generator<Generator>(device, std::make_shared<Numbers>(at::detail::createCPUGenerator()));
}

// The default generators of each world, by its epoch: those of a suspended world wait for it.
struct Defaults {
  using OfWorld = std::array<std::array<at::Generator, kMostDevices>, kKinds>;
  std::mutex lock;
  std::map<uint64_t, OfWorld> worlds;
  static Defaults& one() {
    static auto* defaults = new Defaults();
    return *defaults;
  }
};

inline const at::Generator& default_generator(int kind, DeviceIndex index) {
  const auto place = index < 0 ? current_index(kind) : index;
  TORCH_CHECK(place < device_count(kind), no_such_device(kind, place));
  auto& defaults = Defaults::one();
  std::lock_guard<std::mutex> hold(defaults.lock);
  auto& one = defaults.worlds[state().epoch.load()][kind][place];
  if (!one.defined()) one = make_generator(kind, place);
  return one;
}

inline void forget_generators(uint64_t epoch) {
  auto& defaults = Defaults::one();
  std::lock_guard<std::mutex> hold(defaults.lock);
  defaults.worlds.erase(epoch);
}

// The CPU's generator behind a simulated one; others as they are.
inline at::Generator unwrapped(const at::Generator& given) {
  if (!given.defined() || kind_of(given.device().type()) < 0) return given;
  return static_cast<Generator*>(given.unsafeGetGeneratorImpl())->inner();
}

// Lets a kernel that takes no generator draw from a device's own numbers.
class DrawFrom {
 public:
  explicit DrawFrom(at::Generator of) : hold_(lock()), of_(std::move(of)) { exchange(); }
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

  // The CPU's generator is one for all threads: two devices at once would exchange their numbers with each other.
  static std::recursive_mutex& lock() {
    static auto* one = new std::recursive_mutex();
    return *one;
  }

  std::lock_guard<std::recursive_mutex> hold_;
  at::Generator of_;
};

}  // namespace devpolicy
