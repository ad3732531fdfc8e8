"""The exam's checks: each claim of a lab's contract, restated as behaviour a remote peer shows.

One module a lab (lab00, …) with a function a contract test, of the same name without `test_`.
"""
