@echo off
rem What `make run` does, on Windows. Another port and the like: run.cmd open --port 8600
setlocal
cd /d "%~dp0"
set PYTHONUTF8=1
set "PYTHON=py -3"
where py >nul 2>nul || set "PYTHON=python"
if not exist ".venv\Scripts\python.exe" %PYTHON% -m venv .venv || exit /b 1
.venv\Scripts\python deploy\install.py --stamp .venv\app.stamp requirements.txt || exit /b 1
.venv\Scripts\pybabel --quiet compile -d gradviz\locale -D gradviz
.venv\Scripts\python -m gradviz %*
