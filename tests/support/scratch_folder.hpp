#pragma once

#include <nixbuild/base/error.hpp>

#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

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
    // Processes that are about to end may still take files away at the same time.
    std::error_code error;
    for (int i = 0; i < 100; ++i) {
      std::filesystem::remove_all(path_, error);
      if (!error) {
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

private:
  std::filesystem::path path_;
};

} // namespace nixbuild::tests
