#pragma once

#include <nixbuild/base/api.hpp>

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

/// Control groups (v2) around machines: what a captured emulator can take from its host.
namespace nixbuild::sandbox {

/// Where the groups of machines are made.
struct CgroupHome {
  std::filesystem::path parent; ///< empty: no machine gets a group
  /// This process left `parent` for a leaf below it. Whoever is started in `parent` next needs it
  /// without controllers (release_controllers).
  bool left = false;
  std::string shortfall; ///< what machines do without, and why; empty: nothing
};

/// `choice`: `auto` (the group of this process, where it may be used and holds nobody else),
/// `none`, or a folder. `auto` moves this process into a leaf `daemon`; `auto` and a folder switch
/// the controllers on. Call it once, before there are threads. Never throws for what is not to be
/// had: that is the shortfall. `proc` is where /proc is mounted.
[[nodiscard]] NIXBUILD_API CgroupHome prepare_cgroups(std::string_view choice,
                                                      const std::filesystem::path& proc = "/proc");

/// What `prepare_cgroups` would say, without doing anything.
[[nodiscard]] NIXBUILD_API CgroupHome examine_cgroups(std::string_view choice,
                                                      const std::filesystem::path& proc = "/proc");

/// Switches the controllers of `parent` off, so that a process can be started in it: the kernel
/// keeps processes and controllers apart. The machines below lose their limits until
/// `MachineCgroup::limit`.
NIXBUILD_API void release_controllers(const std::filesystem::path& parent) noexcept;

struct CgroupLimits {
  std::uint64_t memory_bytes = 0; ///< 0: none
  unsigned cpus = 0;              ///< whole processors; 0: none
  unsigned processes = 0;         ///< 0: none
};

/// The group of one machine. Destroying it kills what is left in it and removes it.
class NIXBUILD_API MachineCgroup {
public:
  MachineCgroup() = default;
  /// Makes `folder` and writes the limits; see `shortfall`.
  MachineCgroup(std::filesystem::path folder, const CgroupLimits& limits);
  ~MachineCgroup();
  MachineCgroup(MachineCgroup&& other) noexcept;
  MachineCgroup& operator=(MachineCgroup&& other) noexcept;

  /// Moves a process here. False: it stays where it was, and the shortfall says why.
  bool add(pid_t process);
  /// Writes the limits (again); what cannot be set is added to the shortfall.
  void limit();

  [[nodiscard]] bool exists() const noexcept { return !folder_.empty(); }

  [[nodiscard]] bool limits_memory() const noexcept { return limits_memory_; }

  /// Whether the kernel has killed something here for want of memory.
  [[nodiscard]] bool ran_out_of_memory() const;

  [[nodiscard]] const std::string& shortfall() const noexcept { return shortfall_; }

  [[nodiscard]] const std::filesystem::path& folder() const noexcept { return folder_; }

private:
  void remove() noexcept;
  bool put(const char* file, const std::string& text, const char* what);

  std::filesystem::path folder_;
  CgroupLimits limits_;
  std::string shortfall_;
  bool limits_memory_ = false;
};

/// Kills what is left in a machine's group, and removes it. Waits at most a tenth of a second.
NIXBUILD_API void remove_cgroup(const std::filesystem::path& folder) noexcept;

} // namespace nixbuild::sandbox
