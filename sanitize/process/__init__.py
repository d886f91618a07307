"""The process of one file: how it is started, shut in, and given what it may read.

    who hands out jobs            on the same machine, without a network      one for each file
    worker.py  -- job ----------> server.py  -- fork, lock.py --------------> child.py, then work.py
      has the login                 opens no file                               limits.py, landlock.py
      lender.py <- questions, answers -------------------------------------->   borrowed.py
        lent.py, spool.py: what was fetched is kept                             (a store like any other)

A source on another machine is lent: the child asks for bytes, and its worker fetches them once.
"""
