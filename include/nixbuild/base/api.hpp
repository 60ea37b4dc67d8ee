#pragma once

/// Marks a declaration as part of the installed API. The library is built with hidden visibility.
#define NIXBUILD_API __attribute__((visibility("default")))
