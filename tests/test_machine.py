"""What results say of the machine."""

import jax

from simcse_jax.machine import cpu_name, hardware


def test_hardware_names_the_processor_the_devices_and_the_version():
    assert cpu_name()
    assert hardware() == f"{cpu_name()}, {jax.device_count()} CPU device, jax {jax.__version__}"
