// Collectives between simulated devices: gloo's, on the same memory.
//
// Owns a backend of torch.distributed that lets another, which knows tensors of the CPU, work on simulated ones. Tensors
// of the CPU pass through. It answers for gloo, and in nccl's place.
#pragma once

#include "tensors.h"

#include <pybind11/functional.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>

#include <functional>
#include <map>
#include <mutex>

namespace devpolicy {

using c10d::Work;
using Tensors = std::vector<Tensor>;
using TensorLists = std::vector<Tensors>;

// The tensors of one call as the inner backend sees them, and on which devices they are.
class OnCpu {
 public:
  explicit OnCpu(const char* name) : name_(name) {}

  Tensor operator()(const Tensor& tensor) {
    if (!is_simulated(tensor)) return tensor;
    const auto world = open_world(kind_of(tensor.device().type()));
    TORCH_CHECK_NOT_IMPLEMENTED(!world->phantom, "torch.distributed's ", name_, " is not simulated at depth `phantom`, "
                                "where tensors have sizes and no data");
    const auto& ledger = ledger_of(*world, tensor);
    if (devices_.empty()) ledger->operate(std::string("c10d::") + name_);
    if (std::find(devices_.begin(), devices_.end(), tensor.device()) == devices_.end()) devices_.push_back(tensor.device());
    // The memory is the tensor's, which is kept for as long as the inner backend works on it.
    const auto& storage = tensor.storage();
    c10::DataPtr memory(storage.unsafeGetStorageImpl()->mutable_data(), new Tensor(tensor),
                        [](void* kept) { delete static_cast<Tensor*>(kept); }, c10::Device(DeviceType::CPU));
    c10::Storage same(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(memory), nullptr, false);
    auto alias = at::detail::make_tensor<c10::TensorImpl>(
        std::move(same), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
    alias.unsafeGetTensorImpl()->set_storage_offset(tensor.storage_offset());
    alias.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides());
    return alias;
  }

  Tensors operator()(const Tensors& tensors) {
    Tensors aliases;
    for (const auto& tensor : tensors) aliases.push_back((*this)(tensor));
    return aliases;
  }

  TensorLists operator()(const TensorLists& lists) {
    TensorLists aliases;
    for (const auto& list : lists) aliases.push_back((*this)(list));
    return aliases;
  }

  const std::vector<c10::Device>& devices() const { return devices_; }

 private:
  const char* name_;
  std::vector<c10::Device> devices_;
};

inline Tensors flat(const TensorLists& lists) {
  Tensors all;
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

// The inner backend's work, with the device's tensors as its result.
class WorkOnDevices final : public Work {
 public:
  WorkOnDevices(c10::intrusive_ptr<Work> inner, Tensors results, std::vector<c10::Device> devices)
      : inner_(std::move(inner)), results_(std::move(results)), devices_(std::move(devices)) {}

  bool isCompleted() override { return inner_->isCompleted(); }
  bool isSuccess() const override { return inner_->isSuccess(); }
  std::exception_ptr exception() const override { return inner_->exception(); }
  int sourceRank() const override { return inner_->sourceRank(); }
  Tensors result() override { return results_; }
  void synchronize() override { inner_->wait(); }
  // Work of a device is ordered by its stream, which here has nothing to wait for.
  void blockCurrentStream() override { inner_->wait(); }
  bool wait(std::chrono::milliseconds timeout) override { return inner_->wait(timeout); }
  void abort() override { inner_->abort(); }
  uint64_t getSequencenumber() const override { return inner_->getSequencenumber(); }

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    auto future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::ofTensors(), devices_);
    inner_->getFuture()->addCallback([future, results = results_](c10::ivalue::Future& done) {
      if (done.hasError()) future->setError(done.exception_ptr());
      else future->markCompleted(c10::IValue(results));
    });
    return future;
  }

 private:
  const c10::intrusive_ptr<Work> inner_;
  const Tensors results_;
  const std::vector<c10::Device> devices_;
};

// Several that are waited for as one.
class WorkOfMany final : public Work {
 public:
  void add(c10::intrusive_ptr<Work> work) { all_.push_back(std::move(work)); }
  bool isCompleted() override {
    return std::all_of(all_.begin(), all_.end(), [](const auto& work) { return work->isCompleted(); });
  }
  bool isSuccess() const override {
    return std::all_of(all_.begin(), all_.end(), [](const auto& work) { return work->isSuccess(); });
  }
  void synchronize() override { wait(kNoTimeout); }
  bool wait(std::chrono::milliseconds timeout) override {
    bool done = true;
    for (const auto& work : all_) done = work->wait(timeout) && done;
    return done;
  }

 private:
  std::vector<c10::intrusive_ptr<Work>> all_;
};

// What `DistributedDataParallel` times its steps with: by the CPU's clock.
class Clock final : public c10d::Timer {
 public:
  std::optional<int64_t> measureDifference(Event start, Event end) override {
    const auto from = getTimestamp(start), to = getTimestamp(end);
    // As for the CPU: what ended before it began is of another step.
    if (!from || !to || *to < *from) return std::nullopt;
    return *to - *from;
  }
};

inline void register_timers() {
  for (const auto type : kTypes) {
    c10d::TimerRegistry()->Register(type, [](c10::Device) -> std::unique_ptr<c10d::Timer> { return std::make_unique<Clock>(); });
  }
}

class GroupOnDevices final : public c10d::Backend {
 public:
  using Inner = c10::intrusive_ptr<c10d::Backend>;
  // Connects a rank of so many, who meet under a name: it waits for all of them.
  using Connect = std::function<Inner(int rank, int size, const std::string& name)>;

  GroupOnDevices(Inner inner, std::string name)
      : Backend(inner->getRank(), inner->getSize()), options_(inner->getBackendOptions()), name_(std::move(name)) {
    connected_.emplace("", std::move(inner));
  }

  // As nccl does, it connects when ranks first have something to tell each other: two that send and receive by
  // themselves, and all for everything else. A rank that never takes part keeps nobody from beginning.
  GroupOnDevices(int rank, int size, c10::intrusive_ptr<Options> options, Connect connect, std::string name)
      : Backend(rank, size), options_(std::move(options)), connect_(std::move(connect)), name_(std::move(name)) {}

  const std::string getBackendName() const override { return name_; }
  c10::intrusive_ptr<Options> getBackendOptions() override { return options_; }
  void setTimeout(std::chrono::milliseconds timeout) override {
    options_->timeout = timeout;
    for (const auto& inner : connected()) inner->setTimeout(timeout);
  }
  void setSequenceNumberForGroup() override {}  // gloo counts from the start
  uint64_t getSequenceNumberForGroup() override {
    const auto all = connected();
    return all.empty() ? 0 : all.front()->getSequenceNumberForGroup();
  }
  void monitoredBarrier(const c10d::BarrierOptions& options, bool all) override {
    everybody()->monitoredBarrier(options, all);
  }
  void abort() override {
    for (const auto& inner : connected()) inner->abort();
  }
  void shutdown() override {
    for (const auto& inner : connected()) inner->shutdown();
  }

  // nccl begins several as one, and gloo says that it does not.
  bool supportsCoalescing() const override { return name_ == "nccl"; }
  void startCoalescing() override {
    if (name_ != "nccl") return Backend::startCoalescing();
    coalesced_ = c10::make_intrusive<WorkOfMany>();
  }
  c10::intrusive_ptr<Work> endCoalescing() override {
    if (name_ != "nccl") return Backend::endCoalescing();
    return std::exchange(coalesced_, {});
  }

  c10::intrusive_ptr<Work> broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    OnCpu on("broadcast");
    auto aliases = on(tensors);
    return done(everybody()->broadcast(aliases, options), tensors, on);
  }

  c10::intrusive_ptr<Work> allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    OnCpu on("all_reduce");
    auto aliases = on(tensors);
    return done(everybody()->allreduce(aliases, options), tensors, on);
  }

  c10::intrusive_ptr<Work> allreduce_coalesced(Tensors& tensors,
                                               const c10d::AllreduceCoalescedOptions& options) override {
    OnCpu on("all_reduce_coalesced");
    auto aliases = on(tensors);
    return done(everybody()->allreduce_coalesced(aliases, options), tensors, on);
  }

  c10::intrusive_ptr<Work> reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    OnCpu on("reduce");
    auto aliases = on(tensors);
    return done(everybody()->reduce(aliases, options), tensors, on);
  }

  c10::intrusive_ptr<Work> allgather(TensorLists& outputs, Tensors& inputs,
                                     const c10d::AllgatherOptions& options) override {
    OnCpu on("all_gather");
    auto to = on(outputs);
    auto from = on(inputs);
    return done(everybody()->allgather(to, from, options), flat(outputs), on);
  }

  c10::intrusive_ptr<Work> _allgather_base(Tensor& output, Tensor& input,
                                           const c10d::AllgatherOptions& options) override {
    OnCpu on("all_gather_into_tensor");
    auto to = shapeless(on(output)), from = shapeless(on(input));
    return done(everybody()->_allgather_base(to, from, options), {output}, on);
  }

  c10::intrusive_ptr<Work> allgather_coalesced(TensorLists& outputs, Tensors& inputs,
                                               const c10d::AllgatherOptions& options) override {
    OnCpu on("all_gather_coalesced");
    auto to = on(outputs);
    auto from = on(inputs);
    return done(everybody()->allgather_coalesced(to, from, options), flat(outputs), on);
  }

  c10::intrusive_ptr<Work> allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                           const c10d::AllgatherOptions& options) override {
    OnCpu on("all_gather_into_tensor_coalesced");
    auto to = on(outputs), from = on(inputs);
    return done(everybody()->allgather_into_tensor_coalesced(to, from, options), outputs, on);
  }

  c10::intrusive_ptr<Work> gather(TensorLists& outputs, Tensors& inputs, const c10d::GatherOptions& options) override {
    OnCpu on("gather");
    auto to = on(outputs);
    auto from = on(inputs);
    return done(everybody()->gather(to, from, options), flat(outputs), on);
  }

  c10::intrusive_ptr<Work> scatter(Tensors& outputs, TensorLists& inputs,
                                   const c10d::ScatterOptions& options) override {
    OnCpu on("scatter");
    auto to = on(outputs);
    auto from = on(inputs);
    return done(everybody()->scatter(to, from, options), outputs, on);
  }

  c10::intrusive_ptr<Work> reduce_scatter(Tensors& outputs, TensorLists& inputs,
                                          const c10d::ReduceScatterOptions& options) override {
    OnCpu on("reduce_scatter");
    auto to = on(outputs);
    auto from = on(inputs);
    return done(everybody()->reduce_scatter(to, from, options), outputs, on);
  }

  c10::intrusive_ptr<Work> _reduce_scatter_base(Tensor& output, Tensor& input,
                                                const c10d::ReduceScatterOptions& options) override {
    OnCpu on("reduce_scatter_tensor");
    auto to = shapeless(on(output)), from = shapeless(on(input));
    return done(everybody()->_reduce_scatter_base(to, from, options), {output}, on);
  }

  c10::intrusive_ptr<Work> reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                           const c10d::ReduceScatterOptions& options) override {
    OnCpu on("reduce_scatter_tensor_coalesced");
    auto to = on(outputs), from = on(inputs);
    return done(everybody()->reduce_scatter_tensor_coalesced(to, from, options), outputs, on);
  }

  c10::intrusive_ptr<Work> alltoall_base(Tensor& output, Tensor& input, std::vector<int64_t>& output_sizes,
                                         std::vector<int64_t>& input_sizes,
                                         const c10d::AllToAllOptions& options) override {
    OnCpu on("all_to_all_single");
    auto to = on(output), from = on(input);
    return done(everybody()->alltoall_base(to, from, output_sizes, input_sizes, options), {output}, on);
  }

  c10::intrusive_ptr<Work> alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) override {
    OnCpu on("all_to_all");
    auto to = on(outputs), from = on(inputs);
    return done(everybody()->alltoall(to, from, options), outputs, on);
  }

  c10::intrusive_ptr<Work> send(Tensors& tensors, int to, int tag) override {
    OnCpu on("send");
    auto aliases = on(tensors);
    return done(between(to)->send(aliases, peer(to), tag), tensors, on);
  }

  c10::intrusive_ptr<Work> recv(Tensors& tensors, int from, int tag) override {
    OnCpu on("recv");
    auto aliases = on(tensors);
    return done(between(from)->recv(aliases, peer(from), tag), tensors, on);
  }

  c10::intrusive_ptr<Work> recvAnysource(Tensors& tensors, int tag) override {
    OnCpu on("recv");
    auto aliases = on(tensors);
    return done(everybody()->recvAnysource(aliases, tag), tensors, on);
  }

  c10::intrusive_ptr<Work> barrier(const c10d::BarrierOptions& options) override { return everybody()->barrier(options); }

 private:
  // Connecting waits for other ranks, and asks Python: who holds its lock while it waits here keeps all from going on.
  template <typename Call>
  auto locked(const Call& call) {
    std::optional<pybind11::gil_scoped_release> released;
    if (PyGILState_Check()) released.emplace();
    const std::lock_guard lock(mutex_);
    return call();
  }

  // nccl counts elements, where gloo compares shapes.
  Tensor shapeless(const Tensor& tensor) const { return name_ == "nccl" ? tensor.view({-1}) : tensor; }

  c10::intrusive_ptr<Work> done(c10::intrusive_ptr<Work> work, Tensors results, const OnCpu& on) {
    if (!on.devices().empty()) {
      work = c10::make_intrusive<WorkOnDevices>(std::move(work), std::move(results), on.devices());
    }
    if (coalesced_) coalesced_->add(work);
    return work;
  }

  Inner everybody() { return at("", getRank(), getSize()); }

  bool alone_with(int other) const { return connect_ && !coalesced_ && other != getRank(); }

  Inner between(int other) {
    if (!alone_with(other)) return everybody();
    const int low = std::min(getRank(), other), high = std::max(getRank(), other);
    return at(std::to_string(low) + ":" + std::to_string(high), getRank() == low ? 0 : 1, 2);
  }

  // The number that another rank has in `between`.
  int peer(int other) const { return alone_with(other) ? (other < getRank() ? 0 : 1) : other; }

  Inner at(const std::string& name, int rank, int size) {
    return locked([&] {
      auto found = connected_.find(name);
      if (found == connected_.end()) found = connected_.emplace(name, connect_(rank, size, name)).first;
      return found->second;
    });
  }

  std::vector<Inner> connected() {
    return locked([&] {
      std::vector<Inner> all;
      for (const auto& [_, inner] : connected_) all.push_back(inner);
      return all;
    });
  }

  const c10::intrusive_ptr<Options> options_;
  const Connect connect_;
  const std::string name_;
  std::mutex mutex_;
  std::map<std::string, Inner> connected_;  // by the name under which ranks met; all of them by none
  c10::intrusive_ptr<WorkOfMany> coalesced_;  // what is begun between `startCoalescing` and `endCoalescing`
};

}  // namespace devpolicy
