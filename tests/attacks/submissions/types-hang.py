"""Right, with an expression that takes mypy exponential time (about 100 s)."""

chain = (lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)((lambda a: a)(1))))))))))))))))))))))

{{RIGHT}}
