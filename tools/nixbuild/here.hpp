#pragma once

#include "server/admin_commands.hpp"

#include <sys/types.h>

#include <string>
#include <string_view>

/// Commands that need no daemon, or only talk to it as a client does. Each returns the exit status.
namespace nixbuild::tool {

/// What stands before or beside the command's own words.
struct Globals {
  std::string state_dir; ///< found already
  std::string config;    ///< empty: none
  std::string account;
  bool autostart = true;
  mode_t umask = 077;           ///< that the program was started with
  bool state_dir_given = false; ///< on the command line or in the environment
};

int nar_ls(const server::Command& command);
int nar_cat(const server::Command& command);
int nar_pack(const server::Command& command);
int nar_unpack(const server::Command& command);
int kernel_import(const Globals& globals, const server::Command& command);
int kernel_list(const Globals& globals, const server::Command& command);
int doctor(const Globals& globals, const server::Command& command);
int keys_for(const Globals& globals, const server::Command& command);
int authorized_keys(const Globals& globals, const server::Command& command);
int token_add(const Globals& globals, const server::Command& command);
int token_list(const Globals& globals, const server::Command& command);
int token_remove(const Globals& globals, const server::Command& command);
int run_derivation(const Globals& globals, const server::Command& command);

/// Where imported kernels lie in a state directory. The daemon uses the same.
[[nodiscard]] std::string kernel_cache(const Globals& globals);

/// `key add FILE`: the daemon gets the key itself in place of the file's name, or of `-`. Error
/// `key.file`.
void read_key_file(server::Command& command);

/// All of `text` to standard output. Error `output.write`.
void print(std::string_view text);

} // namespace nixbuild::tool
