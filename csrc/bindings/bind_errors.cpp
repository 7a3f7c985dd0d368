#include <exception>
#include <stdexcept>

#include "base/errors.h"
#include "bindings/bind.h"

namespace py = pybind11;

namespace pycat {
namespace {

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const CorpusError& error) {
    // Imported here, so that the extension can be imported before pycat.errors.
    const py::object type = py::module_::import("pycat.errors").attr("CorpusError");
    PyErr_SetObject(type.ptr(), decode_path(error.what()).ptr());
  } catch (const FileError& error) {
    // OSError chooses its subclass, such as PermissionError, by the error number.
    const int number = error.code().value();
    const py::object os_error = py::reinterpret_borrow<py::object>(PyExc_OSError)(
        number, error.code().message(), decode_path(error.path().native()));
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(os_error.ptr())), os_error.ptr());
  } catch (const std::invalid_argument& error) {
    // As pybind11 does, except that the message may hold a path.
    PyErr_SetObject(PyExc_ValueError, decode_path(error.what()).ptr());
  }
}

}  // namespace

py::str decode_path(const std::string& text) {
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeFSDefaultAndSize(text.data(), static_cast<py::ssize_t>(text.size())));
}

void bind_errors(py::module_& /*module*/) { py::register_local_exception_translator(translate); }

}  // namespace pycat
