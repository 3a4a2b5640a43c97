// Every operator without a kernel of its own: run the CPU's on the same memory, or in a phantom world the meta kernel.
//
// Owns the boxed fallback: what is checked before (devices, generators, faults) and what becomes of the results.
#pragma once

#include "generator.h"
#include "rules.h"
#include "tensors.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <shared_mutex>
#include <unordered_map>
#include <unordered_set>

namespace devpolicy {

// What is known of an operator beforehand.
struct Operator {
  bool mixes_devices = false;  // it takes tensors of the CPU beside those of a device, as on real devices
  bool indexes = false;        // its `indices` may be on the CPU
  bool puts = false;           // and on any device, and so may be a number that is put there
  bool elementwise = false;
  bool draws_unasked = false;  // it draws random numbers, and takes no generator
  bool takes_device = false;
  bool sized_by_values = false;  // the sizes of its results are in its arguments' numbers
  bool asserts = false, waits = false, for_float8 = false;
  const char* floats_only = nullptr;
  const char* alert = nullptr;
  std::array<bool, 5> has_kernel{};  // by `Layout`
  std::vector<size_t> generators;

  // Nothing of this is asked of most operators.
  bool special = false;
};

// The kernels that run a call: those of the CPU for each layout, or those that tell sizes only.
enum Layout : int { kDense = 0, kCoo = 1, kCompressed = 2, kNested = 3, kShapes = 4 };
constexpr std::array<c10::DispatchKey, 5> kRunners{
    c10::DispatchKey::CPU, c10::DispatchKey::SparseCPU, c10::DispatchKey::SparseCsrCPU,
    c10::DispatchKey::NestedTensorCPU, c10::DispatchKey::Meta};

inline Operator look_at(const c10::OperatorHandle& op) {
  static const std::unordered_set<std::string> indexing{
      "aten::index", "aten::_unsafe_index", "aten::_unsafe_masked_index", "aten::_unsafe_masked_index_put_accumulate"};
  static const std::unordered_set<std::string> putting{
      "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index_put"};
  static const std::unordered_set<std::string> mixing{
      "aten::_pack_padded_sequence", "aten::_ctc_loss", "aten::_ctc_loss_backward", "aten::ctc_loss",
      "aten::_nested_from_padded", "aten::_nested_view_from_buffer", "aten::_nested_view_from_buffer_copy"};
  Operator found;
  const auto& schema = op.schema();
  const auto& name = schema.name();
  found.mixes_devices = mixing.count(name) > 0;
  found.puts = putting.count(name) > 0;
  found.indexes = found.puts || indexing.count(name) > 0;
  found.elementwise = op.hasTag(at::Tag::pointwise);
  found.sized_by_values = op.hasTag(at::Tag::dynamic_output_shape) || op.hasTag(at::Tag::data_dependent_output);
  const auto& arguments = schema.arguments();
  for (size_t at = 0; at < arguments.size(); ++at) {
    auto type = arguments[at].type();
    if (auto optional = type->cast<c10::OptionalType>()) type = optional->getElementType();
    if (type->kind() == c10::TypeKind::GeneratorType) found.generators.push_back(at);
    found.takes_device |= arguments[at].name() == "device";
  }
  found.draws_unasked = found.generators.empty() && op.hasTag(at::Tag::nondeterministic_seeded);
  for (size_t layout = 0; layout < kRunners.size(); ++layout) {
    found.has_kernel[layout] = op.hasComputedKernelForDispatchKey(kRunners[layout]);
  }
  found.asserts = asserts_on_device(name);
  found.waits = waits_for_device(name);
  found.floats_only = product_of_floats(name);
  found.alert = not_deterministic(name);
  found.for_float8 = name == "aten::_scaled_mm";
  found.special = found.waits || found.indexes || found.floats_only || found.alert || found.for_float8;
  return found;
}

inline const Operator& known(const c10::OperatorHandle& op) {
  static std::shared_mutex lock;
  static auto* all = new std::unordered_map<const void*, Operator>();
  const void* key = &op.schema();
  {
    std::shared_lock<std::shared_mutex> reading(lock);
    const auto found = all->find(key);
    if (found != all->end()) return found->second;
  }
  auto made = look_at(op);
  std::unique_lock<std::shared_mutex> writing(lock);
  return all->emplace(key, std::move(made)).first->second;
}

// Sees every tensor argument, and raises torch's errors for those of two devices.
class SameDevice {
 public:
  SameDevice(const c10::OperatorHandle& op, const Operator& facts) : op_(op), facts_(facts) {}

  void see(const Tensor& tensor, size_t argument) {
    if (!tensor.defined()) return;
    const auto device = tensor.device();
    cpu_ |= device.is_cpu();
    if (facts_.indexes && op_.schema().arguments()[argument].name() == "indices") return see_index(device);
    if (facts_.puts && argument > 0 && tensor.dim() == 0) return;
    if (device.is_cpu()) {
      // A number in a tensor of the CPU goes along, as on real devices.
      if (tensor.dim() == 0 || facts_.mixes_devices) return;
    } else if (kind_of(device.type()) < 0) {
      return;
    }
    if (!first_) first_ = device;
    else if (*first_ != device) refuse(device, argument);
    if (!device.is_cpu()) simulated_ = device;
  }

  // Whether all that was seen is the CPU's.
  bool only_cpu() const { return cpu_ && !simulated_; }

  // The simulated device of the arguments, if any is on one.
  std::optional<c10::Device> device() const { return simulated_; }

 private:
  // INVARIANT: what is indexed is the first argument.
  void see_index(c10::Device device) {
    const auto indexed = first_.value_or(c10::Device(DeviceType::CPU));
    TORCH_CHECK(facts_.puts || device.is_cpu() || device == indexed,
                "indices should be either on cpu or on the same device as the indexed tensor (", indexed, ")");
  }

  [[noreturn]] void refuse(c10::Device other, size_t argument) const {
    if (facts_.elementwise) {
      TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", *first_,
                  " and ", other, "!");
    }
    const auto kind = kind_of((first_->is_cpu() ? other : *first_).type());
    const auto& name = op_.schema().name();
    TORCH_CHECK(false, "Expected all tensors to be on the same device, but got ",
                op_.schema().arguments()[argument].name(), " is on ", other, ", different from other tensors on ",
                *first_, " (when checking argument in method wrapper_", kNames[kind], "_",
                name.substr(name.find("::") + 2), ")");
  }

  const c10::OperatorHandle& op_;
  const Operator& facts_;
  std::optional<c10::Device> first_, simulated_;
  bool cpu_ = false;
};

// Kernels run below autograd and autocast: both have done their part on the simulated tensors.
struct Below {
  at::AutoDispatchBelowADInplaceOrView autograd;
  c10::impl::ExcludeDispatchKeyGuard autocast{c10::autocast_dispatch_keyset};
};

// A call that is being run: its arguments on the stack, and what is known of it.
struct Call {
  const c10::OperatorHandle& op;
  const Operator& facts;
  const World& world;
  torch::jit::Stack* stack;
  size_t first;                   // where its arguments begin on the stack
  bool numbers = true;            // whether every simulated argument has numbers
  std::optional<c10::Device> asked, device;

  const c10::FunctionSchema& schema() const { return op.schema(); }
  c10::IValue& argument(size_t at) const { return (*stack)[first + at]; }
};

template <class See>
void see_tensors(const Call& call, const See& see) {
  for (size_t at = 0; at < call.schema().arguments().size(); ++at) {
    const auto& value = call.argument(at);
    if (value.isTensor()) {
      see(value.toTensor(), at);
    } else if (value.isTensorList()) {
      for (const Tensor& tensor : value.toTensorVector()) see(tensor, at);
    } else if (value.isOptionalTensorList()) {
      for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector()) {
        if (tensor) see(*tensor, at);
      }
    }
  }
}

inline void enter_arguments(const Call& call, Aliases& aliases, bool shapes) {
  const auto& arguments = call.schema().arguments();
  for (size_t at = 0; at < arguments.size(); ++at) {
    auto& value = call.argument(at);
    if (value.isTensor()) {
      const Tensor& tensor = value.toTensor();
      const auto* alias = arguments[at].alias_info();
      const bool lost = shapes && alias && alias->isWrite() && tensor.defined() && tensor.device().is_cpu();
      TORCH_CHECK_NOT_IMPLEMENTED(!lost, "'", call.schema().operator_name(), "' cannot write phantom tensors into one "
                                  "of the CPU; no data! (the host is simulated at depth `phantom`, where large tensors "
                                  "have sizes only)");
      value = aliases.enter(tensor);
    } else if (value.isTensorList()) {
      c10::List<Tensor> entered;
      for (const Tensor& tensor : value.toTensorVector()) entered.push_back(aliases.enter(tensor));
      value = std::move(entered);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> entered;
      for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector()) {
        if (tensor && tensor->defined()) entered.push_back(aliases.enter(*tensor));
        else entered.push_back(std::nullopt);
      }
      value = std::move(entered);
    } else if (value.isDevice() && kind_of(value.toDevice().type()) >= 0) {
      value = c10::Device(shapes ? DeviceType::Meta : DeviceType::CPU);
    }
  }
}

// Numbers that are not there are 0 where they are written to a tensor that keeps its own.
inline void forget_written(const Call& call) {
  const auto& arguments = call.schema().arguments();
  see_tensors(call, [&](const Tensor& tensor, size_t at) {
    const auto* alias = arguments[at].alias_info();
    const bool written = alias ? alias->isWrite() : false;
    if (!written || !is_simulated(tensor) || is_composed(tensor) || !has_numbers(tensor)) return;
    Below below;
    Aliases(call.world).enter(tensor).zero_();
  });
}

// Whether a tensor is indexed with truth values: their number is read off the device.
inline bool takes_mask(const Call& call) {
  bool found = false;
  see_tensors(call, [&](const Tensor& tensor, size_t at) {
    found |= tensor.defined() && call.schema().arguments()[at].name() == "indices" &&
        (tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte);
  });
  return found;
}

// What CUDA has no kernel for, and what waits for the device.
inline void hold_rules(const Call& call, const Ledger& ledger) {
  const auto& facts = call.facts;
  if (facts.waits || (facts.indexes && state().sync_debug.load() && takes_mask(call))) waits();
  if (facts.floats_only) {
    const auto type = call.argument(0).toTensor().scalar_type();
    TORCH_CHECK_NOT_IMPLEMENTED(!c10::isIntegralType(type, true), "\"", facts.floats_only, "\" not implemented for '",
                                type, "'");
  }
  if (facts.alert && at::globalContext().deterministicAlgorithms() &&
      lacks_deterministic_form(call.schema().name(), &call.argument(0))) {
    at::globalContext().alertNotDeterministic(facts.alert);
  }
  TORCH_CHECK(!facts.for_float8 || ledger.capability() == 0 || ledger.capability() >= kFloat8Capability,
              "torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9, or ROCm "
              "MI300+");
}

// Run the kernel with its arguments entered.
inline void redispatch(const Call& call, Layout runner, Ledger& ledger, const at::Generator& drawn_from) {
  const c10::DispatchKeySet keys(kRunners[runner]);
  Below below;
  std::optional<DrawFrom> draw;
  if (call.facts.draws_unasked) draw.emplace(drawn_from);
  if (!call.facts.asserts || kind_of(ledger.device().type()) != kCuda) return call.op.redispatchBoxed(keys, call.stack);
  try {
    call.op.redispatchBoxed(keys, call.stack);
  } catch (const c10::Error& error) {
    if (!is_of_a_value(error.what_without_backtrace())) throw;
    // A real device is lost after it. Here it goes on: one test would take the rest of a suite with it.
    ledger.fail(device_assert(error.what_without_backtrace()), call.schema().name());
  }
}

// Put the results on the device.
inline void leave_results(const Call& call, Aliases& aliases, int kind, const std::shared_ptr<Ledger>& ledger) {
  for (size_t at = call.stack->size() - call.schema().returns().size(); at < call.stack->size(); ++at) {
    auto& value = (*call.stack)[at];
    if (value.isTensor()) {
      value = aliases.leave(value.toTensor(), kind, ledger);
    } else if (value.isTensorList()) {
      c10::List<Tensor> left;
      for (const Tensor& tensor : value.toTensorVector()) left.push_back(aliases.leave(tensor, kind, ledger));
      value = std::move(left);
    }
  }
}

inline bool results_are_kept(const Call& call, const Aliases& aliases) {
  for (size_t at = call.stack->size() - call.schema().returns().size(); at < call.stack->size(); ++at) {
    const auto& value = (*call.stack)[at];
    if (value.isTensor() && !aliases.is_kept(value.toTensor())) return false;
    if (value.isTensorList()) {
      for (const Tensor& tensor : value.toTensorVector()) {
        if (!aliases.is_kept(tensor)) return false;
      }
    }
  }
  return true;
}

// Run a call in a phantom world. With every number at hand, and results that are kept, it is computed; else its results
// have sizes, and numbers that are 0.
inline void run_phantom(Call& call, Layout runner, int kind, const std::shared_ptr<Ledger>& ledger, bool stays,
                        const at::Generator& drawn_from) {
  const auto& facts = call.facts;
  const auto& schema = call.schema();
  const auto compute = [&] {
    Aliases aliases(call.world);
    enter_arguments(call, aliases, false);
    redispatch(call, runner, *ledger, drawn_from);
    aliases.write_back();
    if (!stays) leave_results(call, aliases, kind, ledger);
  };
  const bool can_compute = call.numbers && facts.has_kernel[runner];
  if (can_compute && (runner != kDense || facts.sized_by_values || !facts.has_kernel[kShapes])) return compute();
  TORCH_CHECK_NOT_IMPLEMENTED(runner == kDense, "'", schema.operator_name(), "' on sparse or nested tensors is not "
                              "simulated at depth `phantom`, where large tensors have sizes only");
  if (!facts.has_kernel[kShapes] && schema.returns().empty()) {
    // It changes numbers and no sizes.
    forget_written(call);
    torch::jit::drop(*call.stack, schema.arguments().size());
    return;
  }
  TORCH_CHECK_NOT_IMPLEMENTED(facts.has_kernel[kShapes], "'", schema.operator_name(), "' is not simulated: torch has no "
                              "meta kernel for it");
  const torch::jit::Stack given(call.stack->begin() + static_cast<std::ptrdiff_t>(call.first), call.stack->end());
  const auto give_again = [&] {
    call.stack->resize(call.first);
    call.stack->insert(call.stack->end(), given.begin(), given.end());
  };
  Aliases aliases(call.world, true);
  enter_arguments(call, aliases, true);
  redispatch(call, kShapes, *ledger, drawn_from);
  if (can_compute && results_are_kept(call, aliases)) {
    give_again();
    return compute();
  }
  aliases.write_back();
  torch::jit::Stack results(call.stack->begin() + static_cast<std::ptrdiff_t>(call.first), call.stack->end());
  give_again();
  forget_written(call);
  call.stack->resize(call.first);
  call.stack->insert(call.stack->end(), results.begin(), results.end());
  if (!stays) leave_results(call, aliases, kind, ledger);
}

template <int kind, Layout runner>
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto world = open_world(kind);
  const auto& facts = known(op);
  const auto& schema = op.schema();
  Call call{op, facts, *world, stack, stack->size() - schema.arguments().size()};
  TORCH_CHECK_NOT_IMPLEMENTED(facts.has_kernel[runner] || (world->phantom && runner == kDense), "'",
                              schema.operator_name(), "' is not simulated: torch has no CPU kernel for it",
                              runner == kDense ? "" : " on sparse or nested tensors");
  SameDevice devices(op, facts);
  see_tensors(call, [&](const Tensor& tensor, size_t at) {
    devices.see(tensor, at);
    if (world->phantom) call.numbers = call.numbers && (!tensor.defined() || has_numbers(tensor));
  });
  if (facts.takes_device) {
    for (size_t at = 0; at < schema.arguments().size(); ++at) {
      if (call.argument(at).isDevice()) call.asked = call.argument(at).toDevice();
    }
  }
  const auto device = call.asked ? *call.asked
      : devices.device() ? *devices.device() : c10::Device(kTypes[kind], current_index(kind));
  const int on = kind_of(device.type());
  const bool stays = on < 0;  // the result was asked for elsewhere
  const int where = stays ? kind : on;
  const int index = stays || !device.has_index() ? current_index(where) : device.index();
  const auto& ledger = ledger_of(*world, where, index);
  ledger->operate(schema.name());
  if (facts.special && where == kCuda) hold_rules(call, *ledger);

  if (!facts.generators.empty()) {
    // A generator alone brings a call here whose tensors are the CPU's, made or given.
    const bool of_cpu = call.asked ? call.asked->is_cpu() : !devices.device() && (devices.only_cpu() || facts.takes_device);
    const auto expected = of_cpu ? DeviceType::CPU : kTypes[where];
    for (const auto at : facts.generators) {
      auto& value = call.argument(at);
      if (value.isNone()) {
        value = unwrapped(default_generator(where, static_cast<DeviceIndex>(index)));
        continue;
      }
      const auto given = value.toGenerator();
      TORCH_CHECK(given.device().type() == expected, "Expected a '", expected,
                  "' device type for generator but found '", given.device().type(), "'");
      value = unwrapped(given);
    }
  }
  const auto drawn_from = facts.draws_unasked
      ? unwrapped(default_generator(where, static_cast<DeviceIndex>(index))) : at::Generator();
  if (world->phantom) return run_phantom(call, runner, where, ledger, stays, drawn_from);

  Aliases aliases(*world);
  enter_arguments(call, aliases, false);
  redispatch(call, runner, *ledger, drawn_from);
  aliases.write_back();
  if (!stays) leave_results(call, aliases, where, ledger);
}

}  // namespace devpolicy
