#include <nixbuild/base/error.hpp>
#include <nixbuild/sandbox/vmdk.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

namespace nixbuild::sandbox {

namespace {

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kMaxDisk = std::uint64_t{1} << 44; // 2^32 EROFS blocks
constexpr const char* kDiskCode = "sandbox.disk";

[[noreturn]] void bad_disk(std::string message) {
  throw Error(Reaction::Reject, kDiskCode, std::move(message));
}

UniqueFd unlinked_file(const std::filesystem::path& directory) {
  const int fd = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0) {
    return UniqueFd(fd);
  }
  std::string name = (directory / "pack-XXXXXX").string();
  UniqueFd file(system_call(kDiskCode, name, [&] { return ::mkostemp(name.data(), O_CLOEXEC); }));
  system_call(kDiskCode, name, [&] { return ::unlink(name.c_str()); });
  return file;
}

UniqueFd open_again_read_only(const UniqueFd& file) {
  const auto path = fmt::format("/proc/self/fd/{}", file.get());
  return UniqueFd(
      system_call(kDiskCode, path, [&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
}

void copy_by_hand(
    int from, std::uint64_t offset, int to, std::uint64_t target, std::uint64_t length) {
  Bytes buffer(std::min<std::uint64_t>(length, 256 * kKiB));
  while (length > 0) {
    const auto want = std::min<std::uint64_t>(length, buffer.size());
    const auto got = system_call(kDiskCode, "reading an input", [&] {
      return ::pread(from, buffer.data(), want, static_cast<off_t>(offset));
    });
    if (got == 0) {
      bad_disk(fmt::format("an extent ends {} bytes beyond its file's end", length));
    }
    for (ssize_t put = 0; put < got;) {
      put += system_call(kDiskCode, "writing the pack", [&] {
        return ::pwrite(to,
                        buffer.data() + put,
                        static_cast<std::size_t>(got - put),
                        static_cast<off_t>(target) + put);
      });
    }
    const auto done = static_cast<std::uint64_t>(got);
    offset += done;
    target += done;
    length -= done;
  }
}

void copy_extent(const DiskExtent& extent, int pack, std::uint64_t target) {
  auto from = static_cast<off_t>(extent.offset);
  auto to = static_cast<off_t>(target);
  std::uint64_t left = extent.length;
  while (left > 0) {
    const auto copied = ::copy_file_range(extent.fd.get(), &from, pack, &to, left, 0);
    if (copied <= 0) {
      // Not between these file systems, or nothing left: the loop by hand tells them apart.
      copy_by_hand(extent.fd.get(),
                   static_cast<std::uint64_t>(from),
                   pack,
                   static_cast<std::uint64_t>(to),
                   left);
      return;
    }
    left -= static_cast<std::uint64_t>(copied);
  }
}

void check_extent(const DiskExtent& extent) {
  if (extent.length == 0 || extent.length % kBlock != 0 || extent.offset % kSector != 0 ||
      extent.length > kMaxDisk || extent.offset > kMaxDisk) {
    bad_disk(fmt::format("extent of {} bytes at {} is not whole blocks of {}",
                         extent.length,
                         extent.offset,
                         kBlock));
  }

  struct stat status {};

  system_call(kDiskCode, "an input file", [&] { return ::fstat(extent.fd.get(), &status); });
  if (S_ISREG(status.st_mode) &&
      extent.offset + extent.length > static_cast<std::uint64_t>(status.st_size)) {
    bad_disk(fmt::format("extent up to byte {} lies beyond its file's {} bytes",
                         extent.offset + extent.length,
                         status.st_size));
  }
}

} // namespace

std::string vmdk_descriptor(std::span<const VmdkExtent> extents) {
  if (extents.empty()) {
    bad_disk("a disk needs at least one extent");
  }
  std::string text = "# Disk DescriptorFile\n"
                     "version=1\n"
                     "CID=fffffffe\n"
                     "parentCID=ffffffff\n"
                     "createType=\"twoGbMaxExtentFlat\"\n"
                     "# Extent description\n";
  for (const auto& extent : extents) {
    if (extent.length == 0 || extent.length % kSector != 0 || extent.offset % kSector != 0) {
      bad_disk(fmt::format(
          "extent of {} bytes at {} is not whole sectors", extent.length, extent.offset));
    }
    if (extent.path.empty() || extent.path.size() > 511 ||
        extent.path.find_first_of("\"\r\n") != std::string::npos) {
      bad_disk("a path that a VMDK descriptor cannot hold");
    }
    text += fmt::format(
        "RW {} FLAT \"{}\" {}\n", extent.length / kSector, extent.path, extent.offset / kSector);
  }
  return text;
}

DiskMapper::DiskMapper(std::size_t total, std::filesystem::path directory)
    : total_(total), directory_(std::move(directory)) {
  if (total == 0 || total > kMaxPlanExtents) {
    bad_disk(fmt::format("a disk of {} extents; 1 to {} are possible", total, kMaxPlanExtents));
  }
}

void DiskMapper::add(DiskExtent extent) {
  check_extent(extent);
  bytes_ += extent.length;
  if (bytes_ > kMaxDisk || ++added_ > total_) {
    bad_disk(fmt::format("disk is larger than {} bytes or {} extents", kMaxDisk, total_));
  }
  if (total_ <= kMaxExtents || added_ < kMaxExtents) {
    disk_.extents.push_back(std::move(extent));
    return;
  }
  if (!pack_) {
    pack_ = unlinked_file(directory_);
  }
  copy_extent(extent, pack_.get(), disk_.packed_bytes);
  disk_.packed_bytes += extent.length;
}

MappedDisk DiskMapper::finish() {
  if (added_ != total_) {
    bad_disk(fmt::format("{} extents were given, {} announced", added_, total_));
  }
  if (pack_) {
    disk_.extents.push_back({open_again_read_only(pack_), 0, disk_.packed_bytes});
  }
  return std::move(disk_);
}

MappedDisk map_disk(std::vector<DiskExtent> plan, const std::filesystem::path& directory) {
  DiskMapper mapper(plan.size(), directory);
  for (auto& extent : plan) {
    mapper.add(std::move(extent));
  }
  return mapper.finish();
}

UniqueFd sealed_file(std::string_view contents) {
  const UniqueFd file(system_call(kDiskCode, "a file in memory", [&] {
    return ::memfd_create("nixbuild", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  }));
  while (!contents.empty()) {
    const auto put = system_call(kDiskCode, "writing a file in memory", [&] {
      return ::write(file.get(), contents.data(), contents.size());
    });
    contents.remove_prefix(static_cast<std::size_t>(put));
  }
  system_call(kDiskCode, "sealing a file in memory", [&] {
    return ::fcntl(
        file.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
  });
  return open_again_read_only(file);
}

} // namespace nixbuild::sandbox
