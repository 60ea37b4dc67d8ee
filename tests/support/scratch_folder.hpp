#pragma once

#include <nixbuild/base/error.hpp>

#include <filesystem>
#include <string>

#include <stdlib.h>

namespace nixbuild::tests {

/// A folder that lives as long as the object.
class ScratchFolder {
public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "nixbuild-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw_system_error("test.scratch", name);
    }
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

private:
  std::filesystem::path path_;
};

} // namespace nixbuild::tests
