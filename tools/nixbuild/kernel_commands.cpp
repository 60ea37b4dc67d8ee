#include "here.hpp"
#include "server/admin_text.hpp"
#include "server/state_folder.hpp"

#include <nixbuild/sandbox/kernel.hpp>
#include <nixbuild/sandbox/machine_trial.hpp>
#include <nixbuild/server/config.hpp>
#include <nixbuild/server/machine_settings.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>
#include <sys/stat.h>

#include <filesystem>
#include <optional>
#include <utility>

namespace nixbuild::tool {

namespace fs = std::filesystem;
namespace json = boost::json;

namespace {

/// What came of trying a machine with the kernel: words for people, or an error of a kernel that
/// cannot be used.
std::string try_kernel(const Globals& globals, const sandbox::ImportedKernel& kernel) {
  sandbox::MachineTrial trial;
  try {
    auto settings =
        server::machine_settings(server::load_config(globals.config), globals.state_dir);
    settings.kernel.reset(); // what was imported last is meant
    if (sandbox::machine_is_known_to_work(settings)) {
      return "known to work";
    }
    trial = sandbox::try_machine(std::move(settings));
  } catch (const Error& error) {
    return fmt::format("not tried: {}", error.message());
  }
  if (!trial.works) {
    sandbox::forget_kernel(kernel);
    throw Error(
        Reaction::Unsupported,
        "kernel.unusable",
        fmt::format("kernel {} is not taken over: a machine with it does not come as far as "
                    "a builder: {}",
                    kernel.version,
                    trial.reason));
  }
  return fmt::format("tried: a machine with it works ({}, {} ms){}{}",
                     sandbox::name_of(trial.accelerator),
                     trial.took.count(),
                     trial.kvm_trouble.empty() ? "" : "; under KVM it did not: ",
                     trial.kvm_trouble);
}

/// Why no kernel is used, or which one and why.
std::pair<std::optional<sandbox::KernelChoice>, std::string> used_kernel(const Globals& globals) {
  try {
    const auto config = server::load_config(globals.config);
    std::optional<sandbox::KernelSource> configured;
    if (!config.kernel_image.empty()) {
      configured = sandbox::KernelSource{config.kernel_image, config.kernel_modules, {}};
    }
    auto choice = sandbox::choose_kernel(kernel_cache(globals), configured);
    auto words = choice.cached ? choice.cached->version : choice.source->image.string();
    words += fmt::format(" is used, {}", sandbox::words_of(choice.why));
    return {std::move(choice), std::move(words)};
  } catch (const Error& error) {
    return {std::nullopt, error.message()};
  }
}

} // namespace

std::string kernel_cache(const Globals& globals) {
  return globals.state_dir + "/kernels";
}

int kernel_import(const Globals& globals, const server::Command& command) {
  sandbox::KernelSource source;
  source.image = fs::absolute(command.arguments.at(0));
  if (command.arguments.size() > 1) {
    source.modules = fs::absolute(command.arguments.at(1));
    if (!fs::exists(source.modules / "modules.builtin")) {
      throw Error(Reaction::NotFound,
                  "kernel.modules",
                  fmt::format("'{}' is no kernel's folder of modules: it has no modules.builtin",
                              command.arguments.at(1)));
    }
  }
  server::make_state_folder(globals.state_dir);
  // Kernels are no secret, and root may import one for the daemon of another user, whose folder is
  // closed already.
  ::umask(022);
  const auto kernel =
      sandbox::import_kernel(kernel_cache(globals), source, sandbox::KernelOrigin::ImportedByHand);
  const auto tried = try_kernel(globals, kernel);
  if (command.has("--json")) {
    print(json::serialize(json::object{{"version", kernel.version},
                                       {"image", kernel.image.string()},
                                       {"elf", kernel.elf},
                                       {"sha256", kernel.image_sha256},
                                       {"modules", kernel.modules.size()},
                                       {"tried", tried}}) +
          "\n");
  } else {
    print(fmt::format("kernel {} with {} modules: {}{}\n{}\n",
                      server::printable(kernel.version),
                      kernel.modules.size(),
                      kernel.image.string(),
                      kernel.elf ? "" : " (could not be opened: starts slower)",
                      server::printable(tried)));
  }
  return 0;
}

int kernel_list(const Globals& globals, const server::Command& command) {
  const auto kernels = sandbox::cached_kernels(kernel_cache(globals));
  const auto [used, words] = used_kernel(globals);
  const auto is_used = [&used = used](const sandbox::ImportedKernel& kernel) {
    return used && used->cached && used->cached->directory == kernel.directory;
  };
  if (command.has("--json")) {
    json::array list;
    for (const auto& kernel : kernels) {
      list.push_back(json::object{{"version", kernel.version},
                                  {"image", kernel.image.string()},
                                  {"elf", kernel.elf},
                                  {"modules", kernel.modules.size()},
                                  {"source", kernel.source.string()},
                                  {"imported", kernel.imported},
                                  {"used", is_used(kernel)}});
    }
    print(json::serialize(list) + "\n");
    return 0;
  }
  using Align = server::TextTable::Align;
  server::TextTable table(
      {{"VERSION"}, {"USED"}, {"IMPORTED"}, {"MODULES", Align::Right}, {"FROM"}, {"IMAGE"}});
  for (const auto& kernel : kernels) {
    table.add({kernel.version,
               is_used(kernel) ? "yes" : "no",
               kernel.imported ? "by hand" : "by itself",
               std::to_string(kernel.modules.size()),
               kernel.source.string(),
               kernel.image.string()});
  }
  print(table.empty() ? "no kernel has been taken over yet\n" : table.text());
  print(server::printable(words) + "\n");
  return 0;
}

} // namespace nixbuild::tool
