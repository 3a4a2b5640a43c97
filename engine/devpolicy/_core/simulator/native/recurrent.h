// Recurrent layers and cells: a GPU has kernels of its own for them, whose backward no CPU has. So the CPU's layer runs
// as a whole, with its own graph, on the same memory.
//
// Owns the two ends of that graph. What of the layer is kept for its backward is the CPU's, and not counted.
#pragma once

#include "generator.h"
#include "tensors.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/csrc/autograd/custom_function.h>

namespace devpolicy {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The same memory as a tensor of the CPU that keeps it alive: a graph may outlive the tensor that it was made of.
inline Tensor kept_alias(const Tensor& tensor) {
  const auto world = open_world(kind_of(tensor.device().type()));
  auto alias = Aliases(*world).enter(tensor);
  auto* storage = alias.storage().unsafeGetStorageImpl();
  auto* kept = new c10::Storage(tensor.storage());
  storage->set_data_ptr_noswap(c10::DataPtr(
      storage->data_ptr().get(), kept, [](void* kept) { delete static_cast<c10::Storage*>(kept); }, alias.device()));
  // So that a change in place before the backward is an error, as it is on the CPU.
  if (!tensor.is_inference() && !alias.is_inference()) {
    alias.unsafeGetTensorImpl()->set_version_counter(tensor.unsafeGetTensorImpl()->version_counter());
  }
  return alias;
}

struct Leave : torch::autograd::Function<Leave> {
  static Tensor forward(AutogradContext*, const Tensor& result, c10::Device device) {
    const int kind = kind_of(device.type());
    const auto world = open_world(kind);
    return Aliases(*world).leave(result, kind, ledger_of(*world, kind, device.index()));
  }
  static variable_list backward(AutogradContext*, const variable_list& grads);
};

struct Enter : torch::autograd::Function<Enter> {
  static Tensor forward(AutogradContext* context, const Tensor& tensor) {
    context->saved_data["device"] = tensor.device();
    return kept_alias(tensor);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    if (!grads[0].defined()) return {Tensor()};
    return {Leave::apply(grads[0], context->saved_data["device"].toDevice())};
  }
};

inline variable_list Leave::backward(AutogradContext*, const variable_list& grads) {
  return {grads[0].defined() ? Enter::apply(grads[0]) : Tensor(), Tensor()};
}

template <int kind>
void recurrent(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const size_t first = stack->size() - arguments.size();
  const auto input = (*stack)[first].toTensor();
  const auto device = input.device();
  const auto world = open_world(kind);
  TORCH_CHECK(kind_of(device.type()) == kind, "Input and parameter tensors are not at the same device, found input "
              "tensor at ", device, " and parameter tensor at ", kTypes[kind]);
  ledger_of(*world, input)->operate(op.schema().name());

  const bool cast = at::autocast::is_autocast_enabled(kTypes[kind]);
  const auto enter = [&](const Tensor& tensor, const std::string& argument) {
    if (!tensor.defined() || argument == "batch_sizes") return tensor;
    TORCH_CHECK(tensor.device() == device, "Input and ", argument == "hx" ? "hidden" : "parameter", " tensors are not "
                "at the same device, found input tensor at ", device, " and ",
                argument == "hx" ? "hidden" : "parameter", " tensor at ", tensor.device());
    return Enter::apply(cast ? at::autocast::cached_cast(at::autocast::get_autocast_dtype(kTypes[kind]), tensor,
                                                         kTypes[kind])
                             : tensor);
  };
  // Autocast has done its part then, and the CPU's is not asked.
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
  for (size_t at = 0; at < arguments.size(); ++at) {
    auto& value = (*stack)[first + at];
    if (value.isTensor()) {
      value = enter(value.toTensor(), arguments[at].name());
    } else if (value.isTensorList()) {
      c10::List<Tensor> entered;
      for (const Tensor& tensor : value.toTensorVector()) entered.push_back(enter(tensor, arguments[at].name()));
      value = std::move(entered);
    }
  }
  {
    // Dropout between layers.
    DrawFrom draw(unwrapped(default_generator(kind, device.index())));
    op.callBoxed(*stack);
  }
  const size_t results = stack->size() - op.schema().returns().size();
  for (size_t at = results; at < stack->size(); ++at) (*stack)[at] = Leave::apply((*stack)[at].toTensor(), device);
}

}  // namespace devpolicy
