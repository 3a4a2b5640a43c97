// Every operator without a kernel of its own: run the CPU's on the same memory, or in a phantom world the meta kernel.
//
// Owns the boxed fallback: what is checked before (devices, generators, faults) and what becomes of the results.
#pragma once

#include "generator.h"
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
  bool has_kernel = true;
  std::vector<size_t> generators;
};

inline Operator look_at(const c10::OperatorHandle& op, bool phantom) {
  static const std::unordered_set<std::string> indexing{
      "aten::index", "aten::_unsafe_index", "aten::_unsafe_masked_index", "aten::_unsafe_masked_index_put_accumulate"};
  static const std::unordered_set<std::string> putting{
      "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index_put"};
  static const std::unordered_set<std::string> mixing{"aten::_pack_padded_sequence", "aten::_ctc_loss",
                                                    "aten::_ctc_loss_backward", "aten::ctc_loss"};
  Operator found;
  const auto& schema = op.schema();
  const auto& name = schema.name();
  found.mixes_devices = mixing.count(name) > 0;
  found.puts = putting.count(name) > 0;
  found.indexes = found.puts || indexing.count(name) > 0;
  found.elementwise = op.hasTag(at::Tag::pointwise);
  const auto& arguments = schema.arguments();
  for (size_t at = 0; at < arguments.size(); ++at) {
    auto type = arguments[at].type();
    if (auto optional = type->cast<c10::OptionalType>()) type = optional->getElementType();
    if (type->kind() == c10::TypeKind::GeneratorType) found.generators.push_back(at);
  }
  found.draws_unasked = found.generators.empty() && op.hasTag(at::Tag::nondeterministic_seeded);
  found.has_kernel = op.hasComputedKernelForDispatchKey(phantom ? c10::DispatchKey::Meta : c10::DispatchKey::CPU);
  return found;
}

inline const Operator& known(const c10::OperatorHandle& op, bool phantom) {
  static std::shared_mutex lock;
  static auto* all = new std::array<std::unordered_map<const void*, Operator>, 2>();
  const void* key = &op.schema();
  {
    std::shared_lock<std::shared_mutex> reading(lock);
    const auto found = (*all)[phantom].find(key);
    if (found != (*all)[phantom].end()) return found->second;
  }
  auto made = look_at(op, phantom);
  std::unique_lock<std::shared_mutex> writing(lock);
  return (*all)[phantom].emplace(key, std::move(made)).first->second;
}

// Sees every tensor argument, and raises torch's errors for those of two devices.
class SameDevice {
 public:
  SameDevice(const c10::OperatorHandle& op, const Operator& facts) : op_(op), facts_(facts) {}

  void see(const Tensor& tensor, size_t argument) {
    if (!tensor.defined()) return;
    const auto device = tensor.device();
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
};

// Kernels run below autograd and autocast: both have done their part on the simulated tensors.
struct Below {
  at::AutoDispatchBelowADInplaceOrView autograd;
  c10::impl::ExcludeDispatchKeyGuard autocast{c10::autocast_dispatch_keyset};
};

template <int kind>
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto world = open_world(kind);
  const auto& facts = known(op, world->phantom);
  const auto& schema = op.schema();
  const size_t first = stack->size() - schema.arguments().size();
  TORCH_CHECK_NOT_IMPLEMENTED(facts.has_kernel, "'", schema.operator_name(), "' is not simulated: torch has no ",
                              world->phantom ? "meta" : "CPU", " kernel for it");

  SameDevice devices(op, facts);
  Aliases aliases(*world);
  std::optional<c10::Device> asked;  // by a `device=` argument
  for (size_t at = 0; at < schema.arguments().size(); ++at) {
    auto& value = (*stack)[first + at];
    if (value.isTensor()) {
      const auto tensor = value.toTensor();
      devices.see(tensor, at);
      const auto* alias = schema.arguments()[at].alias_info();
      const bool lost = world->phantom && alias && alias->isWrite() && tensor.defined() && tensor.device().is_cpu();
      TORCH_CHECK_NOT_IMPLEMENTED(!lost, "'", schema.operator_name(), "' cannot write phantom tensors into one of the "
                                  "CPU; no data! (the host is simulated at depth `phantom`, where tensors have sizes "
                                  "only)");
      value = aliases.enter(tensor);
    } else if (value.isTensorList()) {
      c10::List<Tensor> entered;
      for (const Tensor& tensor : value.toTensorVector()) {
        devices.see(tensor, at);
        entered.push_back(aliases.enter(tensor));
      }
      value = std::move(entered);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> entered;
      for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector()) {
        if (tensor && tensor->defined()) {
          devices.see(*tensor, at);
          entered.push_back(aliases.enter(*tensor));
        } else {
          entered.push_back(std::nullopt);
        }
      }
      value = std::move(entered);
    } else if (value.isDevice()) {
      asked = value.toDevice();
      if (kind_of(asked->type()) >= 0) value = c10::Device(world->phantom ? DeviceType::Meta : DeviceType::CPU);
    }
  }

  auto device = asked ? *asked : devices.device() ? *devices.device() : c10::Device(kTypes[kind], current_index(kind));
  const int on = kind_of(device.type());
  const bool stays = on < 0;  // the result was asked for elsewhere
  const int where = stays ? kind : on;
  const int index = stays || !device.has_index() ? current_index(where) : device.index();
  const auto& ledger = ledger_of(*world, where, index);
  ledger->operate(schema.name());

  for (const auto at : facts.generators) {
    auto& value = (*stack)[first + at];
    if (value.isNone()) {
      value = unwrapped(default_generator(where, static_cast<DeviceIndex>(index)));
    } else {
      const auto given = value.toGenerator();
      TORCH_CHECK(given.device().type() == kTypes[where], "Expected a '", kTypes[where],
                  "' device type for generator but found '", given.device().type(), "'");
      value = unwrapped(given);
    }
  }
  {
    Below below;
    std::optional<DrawFrom> draw;
    if (facts.draws_unasked) draw.emplace(unwrapped(default_generator(where, static_cast<DeviceIndex>(index))));
    op.redispatchBoxed(
        c10::DispatchKeySet(world->phantom ? c10::DispatchKey::Meta : c10::DispatchKey::CPU), stack);
  }
  aliases.write_back();
  if (stays) return;
  const size_t results = stack->size() - schema.returns().size();
  for (size_t at = results; at < stack->size(); ++at) {
    auto& value = (*stack)[at];
    if (value.isTensor()) {
      value = aliases.leave(value.toTensor(), where, ledger);
    } else if (value.isTensorList()) {
      c10::List<Tensor> left;
      for (const Tensor& tensor : value.toTensorVector()) left.push_back(aliases.leave(tensor, where, ledger));
      value = std::move(left);
    }
  }
}

}  // namespace devpolicy
