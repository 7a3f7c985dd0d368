# The compiler of zig, which links against the glibc of any age on any machine. What it needs of C++
# is in the result; of what the machine has, it reads the headers of Python alone.
#
# WHEEL_ZIG: the program. WHEEL_ARCH: x86_64 or aarch64. WHEEL_GLIBC: such as 2.28.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${WHEEL_ARCH})
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES WHEEL_ZIG WHEEL_ARCH WHEEL_GLIBC)
set(CMAKE_CXX_COMPILER ${WHEEL_ZIG} c++ -target ${WHEEL_ARCH}-linux-gnu.${WHEEL_GLIBC})
set(CMAKE_EXE_LINKER_FLAGS_INIT -s)
set(CMAKE_MODULE_LINKER_FLAGS_INIT -s)
# That of the machine knows no files of another processor.
set(CMAKE_STRIP "" CACHE FILEPATH "")
