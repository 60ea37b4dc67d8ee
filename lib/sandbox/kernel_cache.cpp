#include "sandbox/decompress.hpp"

#include <nixbuild/base/descriptor.hpp>
#include <nixbuild/base/digest.hpp>
#include <nixbuild/base/encoding.hpp>
#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/kernel.hpp>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

namespace nixbuild::sandbox {

namespace fs = std::filesystem;
namespace json = boost::json;

namespace {

constexpr std::size_t kMaxImage = 512 * kMiB;
constexpr std::size_t kMaxModule = 64 * kMiB;
constexpr std::size_t kMaxManifest = 1 * kMiB;
/// Raised whenever an import would come out differently from the same source.
constexpr int kFormat = 2;

constexpr std::array<std::string_view, 14> kWanted{"virtio_ring",
                                                   "virtio",
                                                   "virtio_pci_modern_dev",
                                                   "virtio_pci_legacy_dev",
                                                   "virtio_pci",
                                                   "virtio_blk",
                                                   "virtio_console",
                                                   "libcrc32c",
                                                   "erofs",
                                                   "ext4",
                                                   "virtio_rng",
                                                   "virtio_net",
                                                   "af_packet",
                                                   "tls"};
/// May be missing: split out of virtio_pci by some releases only, or only a convenience.
constexpr std::array<std::string_view, 8> kOptional{"virtio_pci_modern_dev",
                                                    "virtio_pci_legacy_dev",
                                                    "libcrc32c",
                                                    "ext4",
                                                    "virtio_rng",
                                                    "virtio_net",
                                                    "af_packet",
                                                    "tls"};
/// Loaded when a builder first wants them, where the kernel has them: sockets of the kernel's
/// cryptography with the ciphers that its users test with, lists of sockets, local vsock, SCTP, and
/// what a builder may mount in namespaces of its own.
constexpr std::array<std::string_view, 26> kOnDemand{"af_alg",
                                                     "algif_hash",
                                                     "algif_skcipher",
                                                     "algif_aead",
                                                     "algif_rng",
                                                     "cbc",
                                                     "ctr",
                                                     "gcm",
                                                     "ghash_generic",
                                                     "ccm",
                                                     "xts",
                                                     "cmac",
                                                     "hmac",
                                                     "md5",
                                                     "sha1_generic",
                                                     "sha256_generic",
                                                     "sha512_generic",
                                                     "drbg",
                                                     "vsock",
                                                     "vsock_loopback",
                                                     "inet_diag",
                                                     "tcp_diag",
                                                     "udp_diag",
                                                     "unix_diag",
                                                     "sctp",
                                                     "overlay"};

std::string sha256_hex(ByteView bytes) {
  return hex_encode(hash_of(HashAlgorithm::Sha256, bytes).bytes());
}

void write_file(const fs::path& path, ByteView bytes) {
  const UniqueFd fd(system_call("sandbox.kernel-cache", path.c_str(), [&] {
    return ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  }));
  while (!bytes.empty()) {
    const auto put = system_call("sandbox.kernel-cache", path.c_str(), [&] {
      return ::write(fd.get(), bytes.data(), bytes.size());
    });
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  system_call("sandbox.kernel-cache", path.c_str(), [&] { return ::fchmod(fd.get(), 0444); });
}

Bytes read_image(const fs::path& path) {
  try {
    return read_file(path.c_str(), kMaxImage, "sandbox.kernel-image");
  } catch (const Error& error) {
    if (error.reaction() == Reaction::Denied) {
      throw Error(Reaction::Denied,
                  "sandbox.kernel-unreadable",
                  fmt::format("the kernel image {} is not readable for this user", path.string()));
    }
    throw;
  }
}

/// What tells that a source has not changed: path, size, mtime, and the modules folder.
std::string mark_of(const KernelSource& source) {
  struct stat status {};

  if (::stat(source.image.c_str(), &status) != 0) {
    throw_system_error("sandbox.kernel-image", source.image.string());
  }
  std::string mark = fmt::format("{}:{}:{}.{}",
                                 source.image.string(),
                                 status.st_size,
                                 status.st_mtim.tv_sec,
                                 status.st_mtim.tv_nsec);
  if (!source.modules.empty() && ::stat(source.modules.c_str(), &status) == 0) {
    mark += fmt::format(":{}:{}", source.modules.string(), status.st_mtim.tv_sec);
  }
  return mark;
}

ImportedKernel read_entry(const fs::path& directory, std::string* source_mark) {
  const auto manifest_path = directory / "manifest.json";
  const auto text = read_file(manifest_path.c_str(), kMaxManifest, "sandbox.kernel-cache");
  try {
    const auto manifest = json::parse(text_of(text)).as_object();
    if (manifest.at("format").as_int64() != kFormat) {
      throw Error(Reaction::Unsupported, "sandbox.kernel-cache", "made by another version");
    }
    ImportedKernel kernel;
    kernel.directory = directory;
    kernel.image = directory / std::string(manifest.at("image").as_string());
    kernel.elf = manifest.at("elf").as_bool();
    kernel.version = manifest.at("version").as_string();
    kernel.image_sha256 = manifest.at("sha256").as_string();
    *source_mark = manifest.at("source").as_string();
    kernel.source = source_mark->substr(0, source_mark->find(':'));
    kernel.imported = manifest.at("imported").as_bool();
    for (const auto& item : manifest.at("modules").as_array()) {
      const auto& module = item.as_object();
      KernelModule entry;
      entry.name = module.at("name").as_string();
      entry.file = directory / "modules" / (entry.name + ".ko");
      entry.sha256 = module.at("sha256").as_string();
      entry.on_demand = module.at("onDemand").as_bool();
      kernel.modules.push_back(std::move(entry));
    }
    return kernel;
  } catch (const std::exception& error) {
    throw Error(Reaction::Corrupt,
                "sandbox.kernel-cache",
                fmt::format("{}: {}", manifest_path.string(), error.what()));
  }
}

struct Entry {
  ImportedKernel kernel;
  std::string mark;
};

/// The newest version first.
std::vector<Entry> entries_of(const fs::path& cache) {
  std::vector<Entry> entries;
  std::error_code ignored;
  for (const auto& item : fs::directory_iterator(cache, ignored)) {
    if (!fs::exists(item.path() / "manifest.json", ignored)) {
      continue;
    }
    try {
      Entry entry;
      entry.kernel = read_entry(item.path(), &entry.mark);
      if (fs::exists(entry.kernel.image, ignored)) {
        entries.push_back(std::move(entry));
      }
    } catch (const Error&) {
      // An entry of another version or a broken one is as good as absent: it is imported again.
    }
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return ::strverscmp(a.kernel.version.c_str(), b.kernel.version.c_str()) > 0;
  });
  return entries;
}

fs::file_time_type time_of(const ImportedKernel& kernel) {
  std::error_code ignored;
  return fs::last_write_time(kernel.directory / "manifest.json", ignored);
}

/// What was imported by hand last.
const Entry* last_imported(const std::vector<Entry>& entries) {
  const Entry* last = nullptr;
  for (const auto& entry : entries) {
    if (entry.kernel.imported &&
        (last == nullptr || time_of(entry.kernel) > time_of(last->kernel))) {
      last = &entry;
    }
  }
  return last;
}

fs::path make_staging(const fs::path& cache) {
  std::error_code error;
  fs::create_directories(cache, error);
  std::string name = (cache / ".import-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) {
    throw_system_error("sandbox.kernel-cache", cache.string());
  }
  system_call("sandbox.kernel-cache", name, [&] { return ::chmod(name.c_str(), 0755); });
  return name;
}

json::array import_modules(const KernelSource& source,
                           const fs::path& staging,
                           std::vector<KernelModule>& modules) {
  json::array list;
  if (source.modules.empty()) {
    return list;
  }
  fs::create_directory(staging / "modules");
  std::set<std::string> at_boot;
  for (const auto& file : module_load_order(source.modules, kWanted, kOptional)) {
    at_boot.insert(file.name);
  }
  std::vector<std::string_view> all(kWanted.begin(), kWanted.end());
  all.insert(all.end(), kOnDemand.begin(), kOnDemand.end());
  std::vector<std::string_view> optional(kOptional.begin(), kOptional.end());
  optional.insert(optional.end(), kOnDemand.begin(), kOnDemand.end());
  for (const auto& file : module_load_order(source.modules, all, optional)) {
    const auto packed = read_file(file.file.c_str(), kMaxModule, "sandbox.kernel-module");
    const auto bytes = decompress(packed, kMaxModule, "sandbox.kernel-module", file.name);
    write_file(staging / "modules" / (file.name + ".ko"), bytes);
    modules.push_back({file.name, {}, sha256_hex(bytes), !at_boot.contains(file.name)});
    list.push_back(json::object{{"name", file.name},
                                {"sha256", modules.back().sha256},
                                {"onDemand", modules.back().on_demand}});
  }
  return list;
}

} // namespace

ImportedKernel
import_kernel(const fs::path& cache, const KernelSource& source, KernelOrigin origin) {
  const auto mark = mark_of(source);
  auto bytes = read_image(source.image);
  ImportedKernel kernel;
  kernel.source = source.image;
  kernel.imported = origin == KernelOrigin::ImportedByHand;
  kernel.version = source.version.empty() ? kernel_release(bytes) : source.version;
  kernel.elf = is_pvh_elf(bytes);
  if (!kernel.elf) {
    auto unpacked = extract_kernel(bytes);
    if (unpacked && is_pvh_elf(*unpacked)) {
      bytes = std::move(*unpacked);
      kernel.elf = true;
    }
  }
  if (kernel.version.empty() || kernel.version.find('/') != std::string::npos) {
    kernel.version = "unknown";
  }
  kernel.image_sha256 = sha256_hex(bytes);
  const auto staging = make_staging(cache);
  try {
    const std::string image_name = kernel.elf ? "vmlinux" : "bzImage";
    write_file(staging / image_name, bytes);
    json::object manifest{{"format", kFormat},
                          {"version", kernel.version},
                          {"source", mark},
                          {"imported", kernel.imported},
                          {"image", image_name},
                          {"elf", kernel.elf},
                          {"sha256", kernel.image_sha256}};
    manifest["modules"] = import_modules(source, staging, kernel.modules);
    const auto text = json::serialize(manifest) + "\n";
    write_file(staging / "manifest.json", bytes_of(text));
    kernel.directory =
        cache / fmt::format("{}-{}", kernel.version, sha256_hex(bytes_of(text)).substr(0, 12));
    if (::rename(staging.c_str(), kernel.directory.c_str()) != 0) {
      if (errno != EEXIST && errno != ENOTEMPTY) {
        throw_system_error("sandbox.kernel-cache", kernel.directory.string());
      }
      fs::remove_all(staging); // the same import by another process, or again
      std::error_code ignored;
      fs::last_write_time(
          kernel.directory / "manifest.json", fs::file_time_type::clock::now(), ignored);
    }
    kernel.image = kernel.directory / image_name;
    for (auto& module : kernel.modules) {
      module.file = kernel.directory / "modules" / (module.name + ".ko");
    }
    return kernel;
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(staging, ignored);
    throw;
  }
}

KernelSource newest_kernel(const fs::path& root) {
  std::optional<KernelSource> best;
  std::error_code ignored;
  const auto modules_of = [&](const std::string& version) {
    for (const auto* base : {"lib/modules", "usr/lib/modules"}) {
      if (fs::is_directory(root / base / version, ignored)) {
        return root / base / version;
      }
    }
    return fs::path();
  };
  for (const auto& item : fs::directory_iterator(root / "boot", ignored)) {
    const auto name = item.path().filename().string();
    if (!name.starts_with("vmlinuz-")) {
      continue;
    }
    const auto version = name.substr(8);
    auto modules = modules_of(version);
    if (!modules.empty() && (!best || ::strverscmp(version.c_str(), best->version.c_str()) > 0)) {
      best = KernelSource{item.path(), std::move(modules), version};
    }
  }
  const auto system = root / "run/current-system";
  for (const auto& item : fs::directory_iterator(system / "kernel-modules/lib/modules", ignored)) {
    const auto version = item.path().filename().string();
    if (!best || ::strverscmp(version.c_str(), best->version.c_str()) > 0) {
      best = KernelSource{system / "kernel", item.path(), version};
    }
  }
  if (!best) {
    throw Error(Reaction::NotFound,
                "sandbox.kernel-none",
                fmt::format("no kernel with modules under {}; import one: nixbuild kernel import "
                            "VMLINUZ MODULES",
                            (root / "boot").string()));
  }
  if (::access(best->image.c_str(), R_OK) != 0) {
    throw Error(
        Reaction::Denied,
        "sandbox.kernel-unreadable",
        fmt::format("the newest kernel {} is not readable for this user", best->image.string()));
  }
  return *best;
}

std::vector<ImportedKernel> cached_kernels(const fs::path& cache) {
  std::vector<ImportedKernel> kernels;
  for (auto& entry : entries_of(cache)) {
    kernels.push_back(std::move(entry.kernel));
  }
  return kernels;
}

std::string_view words_of(KernelChoice::Why why) noexcept {
  switch (why) {
  case KernelChoice::Why::Configured:
    return "because the configuration names it";
  case KernelChoice::Why::Imported:
    return "because it was imported last";
  case KernelChoice::Why::Found:
    return "because it is the newest of this host, and none was imported";
  case KernelChoice::Why::TakenOver:
    break;
  }
  return "because it was taken over earlier, and no other kernel can be read now";
}

KernelChoice choose_kernel(const fs::path& cache,
                           const std::optional<KernelSource>& configured,
                           const fs::path& root) {
  const auto entries = entries_of(cache);
  KernelChoice choice;
  if (configured) {
    choice.why = KernelChoice::Why::Configured;
    choice.source = configured;
  } else if (const auto* imported = last_imported(entries)) {
    choice.why = KernelChoice::Why::Imported;
    choice.cached = imported->kernel;
    return choice;
  } else {
    try {
      choice.source = newest_kernel(root);
    } catch (const Error&) {
      if (entries.empty()) {
        throw;
      }
      choice.why = KernelChoice::Why::TakenOver;
      choice.cached = entries.front().kernel;
      return choice;
    }
  }
  const auto mark = mark_of(*choice.source);
  const auto same = std::find_if(
      entries.begin(), entries.end(), [&](const Entry& entry) { return entry.mark == mark; });
  if (same != entries.end()) {
    choice.cached = same->kernel;
  }
  return choice;
}

ImportedKernel find_or_import_kernel(const fs::path& cache,
                                     const std::optional<KernelSource>& configured) {
  auto choice = choose_kernel(cache, configured);
  return choice.cached ? std::move(*choice.cached) : import_kernel(cache, *choice.source);
}

void forget_kernel(const ImportedKernel& kernel) noexcept {
  std::error_code ignored;
  // Without its manifest it is none any more, whatever stays behind.
  fs::remove(kernel.directory / "manifest.json", ignored);
  fs::remove_all(kernel.directory, ignored);
}

} // namespace nixbuild::sandbox
