"""Devices that this machine does not have: their runtimes, emulated or on software drivers.

They check numbers. A time that is measured on an emulator says nothing about the device.
"""
