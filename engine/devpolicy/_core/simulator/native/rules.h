// Where CUDA behaves otherwise than a CPU: what fails on the device, what waits for it, what it has no kernel for.
//
// Owns these tables, by the names of operators, and the words of the errors.
#pragma once

#include "ledger.h"

#include <ATen/Context.h>
#include <ATen/core/ivalue.h>

#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace devpolicy {

// What is read off the device by an operator: an index or a value that is not allowed fails in the kernel.
inline bool asserts_on_device(const std::string& name) {
  static const std::unordered_set<std::string> asserting{
      "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index",
      "aten::_unsafe_index_put", "aten::embedding", "aten::_embedding_bag", "aten::_embedding_bag_forward_only",
      "aten::embedding_dense_backward", "aten::gather", "aten::index_select", "aten::index_add", "aten::index_add_",
      "aten::index_copy", "aten::index_copy_", "aten::index_fill", "aten::index_fill_", "aten::scatter",
      "aten::scatter_", "aten::scatter_add", "aten::scatter_add_", "aten::scatter_reduce", "aten::scatter_reduce_",
      "aten::take", "aten::put_", "aten::put", "aten::nll_loss_forward", "aten::nll_loss2d_forward",
      "aten::multi_margin_loss", "aten::multilabel_margin_loss_forward", "aten::binary_cross_entropy",
      "aten::_assert_async", "aten::bernoulli_", "aten::bernoulli", "aten::multinomial"};
  return asserting.count(name) > 0;
}

// Whether an error of such a kernel is about a value, which CUDA learns on the device, and not about an argument.
inline bool is_of_a_value(const std::string& what) {
  const auto says = [&](std::string_view words) { return what.find(words) != std::string::npos; };
  if (says("Dimension out of range")) return false;
  return says("out of bounds") || says("out of range") || says("Target ") || says("between 0 and 1") ||
      says("probability tensor contains") || says("p_in") || says("invalid multinomial") || says("assert");
}

// torch's words. CUDA tells them at a later call, here at once, as it does with CUDA_LAUNCH_BLOCKING=1.
inline std::string device_assert(const std::string& what) {
  return "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported at some other "
         "API call, so the stacktrace below might be incorrect.\nFor debugging consider passing "
         "CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\nThe CPU's "
         "kernel says: " + what.substr(0, what.find('\n'));
}

// Operators whose results have a size that is read off the device.
inline bool waits_for_device(const std::string& name) {
  static const std::unordered_set<std::string> waiting{
      "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::_unique", "aten::unique_dim",
      "aten::unique_consecutive", "aten::unique_dim_consecutive", "aten::equal", "aten::_coalesce"};
  return waiting.count(name) > 0;
}

// What `torch.cuda.set_sync_debug_mode` is for.
inline void waits() {
  const int mode = state().sync_debug.load(std::memory_order_relaxed);
  if (mode == 0) return;
  TORCH_CHECK(mode != 2, "called a synchronizing CUDA operation");
  TORCH_WARN("called a synchronizing CUDA operation");
}

// Products that cuBLAS has for floating point only, with the name that torch's error gives.
inline const char* product_of_floats(const std::string& name) {
  static const std::unordered_map<std::string, const char*> products{
      {"aten::mm", "addmm_cuda"}, {"aten::addmm", "addmm_cuda"}, {"aten::addmm_", "addmm_cuda"},
      {"aten::bmm", "baddbmm_cuda"}, {"aten::baddbmm", "baddbmm_cuda"}, {"aten::baddbmm_", "baddbmm_cuda"},
      {"aten::addmv", "addmv_impl_cuda"}, {"aten::addmv_", "addmv_impl_cuda"}, {"aten::mv", "addmv_impl_cuda"},
      {"aten::dot", "dot"}, {"aten::vdot", "vdot"}};
  const auto found = products.find(name);
  return found == products.end() ? nullptr : found->second;
}

// Kernels of CUDA that have no deterministic form, with the name by which torch tells of them.
inline const char* not_deterministic(const std::string& name) {
  static const std::unordered_map<std::string, const char*> kernels{
      {"aten::_adaptive_avg_pool2d_backward", "adaptive_avg_pool2d_backward_cuda"},
      {"aten::_adaptive_avg_pool3d_backward", "adaptive_avg_pool3d_backward_cuda"},
      {"aten::adaptive_max_pool2d_backward", "adaptive_max_pool2d_backward_cuda"},
      {"aten::avg_pool3d_backward", "avg_pool3d_backward_cuda"},
      {"aten::max_pool3d_with_indices_backward", "max_pool3d_with_indices_backward_cuda"},
      {"aten::fractional_max_pool2d_backward", "fractional_max_pool2d_backward_cuda"},
      {"aten::fractional_max_pool3d_backward", "fractional_max_pool3d_backward_cuda"},
      {"aten::grid_sampler_2d_backward", "grid_sampler_2d_backward_cuda"},
      {"aten::grid_sampler_3d_backward", "grid_sampler_3d_backward_cuda"},
      {"aten::reflection_pad1d_backward", "reflection_pad1d_backward_out_cuda"},
      {"aten::reflection_pad2d_backward", "reflection_pad2d_backward_cuda"},
      {"aten::reflection_pad3d_backward", "reflection_pad3d_backward_out_cuda"},
      {"aten::upsample_linear1d_backward", "upsample_linear1d_backward_out_cuda"},
      {"aten::upsample_bilinear2d_backward", "upsample_bilinear2d_backward_out_cuda"},
      {"aten::upsample_bicubic2d_backward", "upsample_bicubic2d_backward_out_cuda"},
      {"aten::upsample_trilinear3d_backward", "upsample_trilinear3d_backward_out_cuda"},
      {"aten::nll_loss2d_forward", "nll_loss2d_forward_out_cuda_template"},
      {"aten::_ctc_loss_backward", "ctc_loss_backward_gpu"},
      {"aten::max_unpool2d", "max_unpooling2d_forward_out"},
      {"aten::max_unpool3d", "max_unpooling3d_forward_out"},
      {"aten::histc", "_histc_cuda"},
      {"aten::bincount", "_bincount_cuda"},
      {"aten::kthvalue", "kthvalue CUDA"},
      {"aten::put_", "put_"}};
  const auto found = kernels.find(name);
  return found == kernels.end() ? nullptr : found->second;
}

// Whether the call is one of those: some kernels have a deterministic form for some arguments.
inline bool lacks_deterministic_form(const std::string& name, const c10::IValue* arguments) {
  if (name == "aten::bincount") return arguments[1].isTensor();
  if (name == "aten::histc") return arguments[0].toTensor().is_floating_point();
  if (name == "aten::put_") return !arguments[3].toBool();
  return true;
}

constexpr int kFloat8Capability = 89;

}  // namespace devpolicy
