#include "here.hpp"
#include "server/admin_text.hpp"
#include "server/state_folder.hpp"

#include <nixbuild/sandbox/kernel.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace nixbuild::tool {

namespace fs = std::filesystem;
namespace json = boost::json;

namespace {

struct CachedKernel {
  std::string version;
  std::string image;
  bool elf = false;
  std::size_t modules = 0;
  std::string source;
};

/// What an entry of the cache says of itself, or nothing when it is not whole.
std::optional<CachedKernel> read_entry(const fs::path& folder) {
  std::ifstream file(folder / "manifest.json", std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  boost::system::error_code error;
  const auto value = json::parse(text.str(), error);
  if (error || !value.is_object()) {
    return std::nullopt;
  }
  const auto& manifest = value.get_object();
  const auto text_of_key = [&](std::string_view key) {
    const auto* found = manifest.if_contains(key);
    return found != nullptr && found->is_string() ? std::string(found->get_string())
                                                  : std::string();
  };
  CachedKernel kernel;
  kernel.version = text_of_key("version");
  kernel.image = (folder / text_of_key("image")).string();
  kernel.source = text_of_key("source");
  kernel.source.resize(std::min(kernel.source.size(), kernel.source.find(':')));
  if (const auto* elf = manifest.if_contains("elf"); elf != nullptr && elf->is_bool()) {
    kernel.elf = elf->get_bool();
  }
  if (const auto* list = manifest.if_contains("modules"); list != nullptr && list->is_array()) {
    kernel.modules = list->get_array().size();
  }
  return kernel;
}

std::vector<CachedKernel> read_cache(const std::string& cache) {
  std::vector<CachedKernel> kernels;
  std::error_code missing;
  for (const auto& item : fs::directory_iterator(cache, missing)) {
    if (!item.path().filename().string().starts_with(".")) {
      if (auto kernel = read_entry(item.path())) {
        kernels.push_back(std::move(*kernel));
      }
    }
  }
  std::sort(kernels.begin(), kernels.end(), [](const auto& a, const auto& b) {
    return ::strverscmp(a.version.c_str(), b.version.c_str()) > 0;
  });
  return kernels;
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
  const auto kernel = sandbox::import_kernel(kernel_cache(globals), source);
  if (command.has("--json")) {
    print(json::serialize(json::object{{"version", kernel.version},
                                       {"image", kernel.image.string()},
                                       {"elf", kernel.elf},
                                       {"sha256", kernel.image_sha256},
                                       {"modules", kernel.modules.size()}}) +
          "\n");
  } else {
    print(fmt::format("kernel {} with {} modules: {}{}\n",
                      server::printable(kernel.version),
                      kernel.modules.size(),
                      kernel.image.string(),
                      kernel.elf ? "" : " (could not be opened: starts slower)"));
  }
  return 0;
}

int kernel_list(const Globals& globals, const server::Command& command) {
  const auto kernels = read_cache(kernel_cache(globals));
  if (command.has("--json")) {
    json::array list;
    for (const auto& kernel : kernels) {
      list.push_back(json::object{{"version", kernel.version},
                                  {"image", kernel.image},
                                  {"elf", kernel.elf},
                                  {"modules", kernel.modules},
                                  {"source", kernel.source}});
    }
    print(json::serialize(list) + "\n");
    return 0;
  }
  using Align = server::TextTable::Align;
  server::TextTable table({{"VERSION"}, {"MODULES", Align::Right}, {"FROM"}, {"IMAGE"}});
  for (const auto& kernel : kernels) {
    table.add({kernel.version, std::to_string(kernel.modules), kernel.source, kernel.image});
  }
  print(table.empty() ? "no kernel has been taken over yet\n" : table.text());
  return 0;
}

} // namespace nixbuild::tool
