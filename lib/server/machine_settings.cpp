#include <nixbuild/server/handoff.hpp>
#include <nixbuild/server/machine_settings.hpp>

namespace nixbuild::server {

sandbox::QemuExecutorSettings machine_settings(const Config& config,
                                               const std::filesystem::path& state_dir) {
  sandbox::QemuExecutorSettings settings;
  settings.runner = find_program("nixbuild-runner");
  settings.guest = find_program("nixbuild-guest");
  settings.builtin = find_program("nixbuild-builtin");
  settings.run_directory = state_dir / "run";
  settings.kernel_cache = state_dir / "kernels";
  settings.accelerator = sandbox::accelerator_choice_of(config.accelerator);
  settings.log_limit_bytes = config.max_log_bytes;
  settings.guest_patience = config.guest_patience;
  settings.kernel_options = config.kernel_options;
  settings.network_allow.assign(config.network_allow.begin(), config.network_allow.end());
  if (!config.shell.empty()) {
    settings.busybox = config.shell;
  }
  if (!config.qemu.empty()) {
    settings.qemu = config.qemu;
  }
  if (!config.network_helper.empty()) {
    settings.network_helper = config.network_helper;
  }
  settings.disk_maker = config.disk_maker;
  if (!config.kernel_image.empty()) {
    sandbox::KernelSource kernel;
    kernel.image = config.kernel_image;
    kernel.modules = config.kernel_modules;
    settings.kernel = kernel;
  }
  return settings;
}

} // namespace nixbuild::server
